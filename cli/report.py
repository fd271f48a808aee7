"""`lorajob report`."""

import webbrowser
from pathlib import Path

import click

from lorajob.cli.context import job_folder
from lorajob.errors import StageError

# Only what the page shows: not the training clips, and no weights.
SHOWN = ("preprocess/report.json", "preprocess/test", "train/history.jsonl", "evaluate")


@click.command()
@click.argument("job")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write. Default: JOB.html in the current folder.",
)
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--full", is_flag=True, help="Show every test clip with its sound. The file can be large."
)
def report(job: str, output: Path | None, show: bool, full: bool) -> None:
    """Write one HTML page about JOB, and print its path.

    The page has error rates with intervals, curves, errors by kind, length and speaker, and the
    worst, most worsened and most improved clips to hear. It needs no network. The evaluation of JOB
    must have finished.
    """
    from lorajob.reporting.page import write_report

    path = output or Path(f"{job}.html")
    with job_folder(job, *SHOWN) as folder:
        if folder.result("evaluate") is None:
            raise StageError(
                f"{job}: has no error rates yet; `lorajob status {job}` shows its progress"
            )
        write_report(folder, path, full)
    click.echo(path)
    if show:
        webbrowser.open(path.resolve().as_uri())
