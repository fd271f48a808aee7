"""`lorajob verify`: check the files of a job, its base model, and the chain between them."""

import json

import click

from lorajob.cli.context import JOB, job_of

HERE = {
    "same": "ok",
    "other": "another one is here",
    "absent": "not on this machine",
    "unstated": "not stated by this job's version",
}


@click.command()
@click.argument("job", type=JOB)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(job: str, as_json: bool) -> None:
    """Check the files of JOB and its base model by their hashes.

    The files must be those that the stages committed, and the text and glossary of the job those
    that `submit` copied. Each stage must have used the files of the
    earlier stages, and the settings, that are there now. All stages must have used the same base
    model; if it is on this machine, its hash is checked, too. job.json must say what the record in
    Redis says. Checkpoints must match their manifests, unless the training runs now.

    Prints a line for each stage and for the base model, then one line for each fault. The exit code
    is 1 if there is a fault.

    \b
    The --json object:
      ok      true without faults
      stages  files, bytes and sha256 of each finished stage
      base    model, sha256, commit; here: same, other, absent, unstated
      faults  one sentence each
    """
    found = job_of(job).verify()
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
    else:
        for name, stage in found.stages.items():
            click.echo(f"{name:11}{stage.files} files, {stage.bytes:,} bytes, {stage.sha256}")
        if not found.stages:
            click.echo("no stage has finished")
        if found.base is not None and found.stages:
            base = found.base
            click.echo(f"{'base model':11}{base.sha256 or base.model}, {HERE[base.here]}")
        for fault in found.faults:
            click.echo(f"fault: {fault}")
    if found.faults:
        click.get_current_context().exit(1)
