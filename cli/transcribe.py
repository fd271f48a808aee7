"""`lorajob transcribe`."""

import json
from pathlib import Path

import click

from lorajob.cli.context import job_folder
from lorajob.errors import StageError


@click.command()
@click.argument("job")
@click.argument(
    "audio",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object for each file: audio, text."
)
def transcribe(job: str, audio: tuple[Path, ...], as_json: bool) -> None:
    """Transcribe AUDIO with the model of JOB, using faster-whisper on this machine.

    Prints the text. If there are several files, each line starts with the file's path. A file
    shorter than 30 s is not padded to 30 s if the model was trained to decode without padding.
    """
    from lorajob.job.chain import chain_faults
    from lorajob.languages import find_language
    from lorajob.spec import JobSpec
    from lorajob.transcribe import transcribe as run

    with job_folder(job, "convert") as folder:
        result = folder.result("convert")
        if result is None or result.model is None:
            raise StageError(f"{job}: has no model yet; `lorajob status {job}` shows its progress")
        if fault := next(chain_faults(folder), None):
            raise StageError(f"{job}: {fault}; `lorajob verify {job}` names all faults")
        spec = JobSpec.load(folder.spec_path)
        language, model = find_language(spec.language).token, folder.root / result.model
        for path, text in run(model, list(audio), language, spec.decodes_cut):
            if as_json:
                click.echo(json.dumps({"audio": str(path), "text": text}, ensure_ascii=False))
            else:
                click.echo(f"{path}: {text}" if len(audio) > 1 else text)
