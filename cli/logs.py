"""`lorajob logs`: print and follow the logs of a job."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from lorajob.cli.context import JOB, job_files, load_record
from lorajob.job.jobdir import STAGES, JobDir

POLL_SECONDS = 0.5


@click.command()
@click.argument("job", type=JOB)
@click.option(
    "-f", "--follow", is_flag=True, help="Print new lines as they come, until the job ends."
)
@click.option("--stage", type=click.Choice(STAGES), help="Only this stage's log.")
def logs(job: str, follow: bool, stage: str | None) -> None:
    """Print the logs of JOB's stages, from preprocess to convert."""
    with job_files(job).logs(lambda: load_record(job)) as (folder, refresh):
        print_logs(job, folder, refresh, follow, stage)


def print_logs(
    job: str, folder: JobDir, refresh: Callable[[], None], follow: bool, stage: str | None
) -> None:
    """Print the logs in `folder`. With `follow`, print new text until the job ends."""
    reader = LogReader(folder, (stage,) if stage else STAGES)
    printed = False
    ended = not follow
    while True:
        refresh()
        for text in reader.new_text():
            click.echo(text, nl=False)
            printed = True
        if ended:
            break
        # When the job has ended, the logs are read once more, to their end.
        ended = load_record(job).over
        if not ended:
            time.sleep(POLL_SECONDS)
    if not printed:
        click.echo(f"lorajob: {job} has written no log yet", err=True)


class LogReader:
    """Reads the text that was added to a job's logs since the last call."""

    def __init__(self, folder: JobDir, stages: tuple[str, ...]) -> None:
        self._paths = {stage: folder.log_path(stage) for stage in stages}
        self._read = dict.fromkeys(stages, 0)
        self._last: str | None = None

    def new_text(self) -> Iterator[str]:
        """Yield new text in the order of the stages, with a heading when the stage changes."""
        for stage, path in self._paths.items():
            text = self._gain(stage, path)
            if text:
                if self._last != stage and len(self._paths) > 1:
                    yield f"==> {stage} <==\n"
                self._last = stage
                yield text

    def _gain(self, stage: str, path: Path) -> str:
        try:
            with path.open("rb") as file:
                file.seek(self._read[stage])
                data = file.read()
        except FileNotFoundError:
            return ""
        self._read[stage] += len(data)
        return data.decode("utf-8", errors="replace")
