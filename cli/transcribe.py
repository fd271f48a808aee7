"""`lorajob transcribe`."""

import json
from pathlib import Path

import click

from lorajob.cli.records import job_folder
from lorajob.errors import StageError


@click.command()
@click.argument("job")
@click.argument(
    "audio",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: audio, text.")
def transcribe(job: str, audio: tuple[Path, ...], as_json: bool) -> None:
    """Transcribe AUDIO with the model that JOB made, by faster-whisper on this machine.

    Prints the text; with several files each line starts with the file's path.
    """
    from lorajob.languages import find_language
    from lorajob.spec import JobSpec
    from lorajob.transcribe import transcribe as run

    with job_folder(job, "convert") as folder:
        result = folder.result("convert")
        if result is None:
            raise StageError(f"{job}: has no model yet; `lorajob status {job}` says how far it is")
        language = find_language(JobSpec.load(folder.spec_path).language).token
        for path, text in run(folder.root / result["model"], list(audio), language):
            if as_json:
                click.echo(json.dumps({"audio": str(path), "text": text}, ensure_ascii=False))
            else:
                click.echo(f"{path}: {text}" if len(audio) > 1 else text)
