"""`lorajob transcribe`."""

import json
import os
from pathlib import Path

import click

from lorajob.cli.context import JOB, job_folder
from lorajob.cores import share_cpu
from lorajob.errors import StageError


@click.command()
@click.argument("job", type=JOB)
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

    Prints the text. If there are several files, each line starts with the file's path. Files of any
    length are decoded as the test clips were (`tuned` in the table of `lorajob status`).
    """
    # Must come before the decoder is loaded.
    share_cpu(os.environ)
    from lorajob.decoding.config import read_config, usual_config
    from lorajob.job.chain import chain_faults
    from lorajob.spec import JobSpec
    from lorajob.transcribe import transcribe as run

    with job_folder(job, "convert") as folder:
        result = folder.result("convert")
        if result is None or result.model is None:
            raise StageError(f"{job}: has no model yet; `lorajob status {job}` shows its progress")
        if fault := next(chain_faults(folder), None):
            raise StageError(f"{job}: {fault}; `lorajob verify {job}` names all faults")
        spec = JobSpec.load(folder.spec_path)
        model = folder.root / result.model
        config = read_config(model) or usual_config(spec)
        for path, text in run(model, list(audio), config):
            if as_json:
                click.echo(json.dumps({"audio": str(path), "text": text}, ensure_ascii=False))
            else:
                click.echo(f"{path}: {text}" if len(audio) > 1 else text)
