"""`lorajob doctor`."""

import dataclasses
import json
import sys

import click

from lorajob.cli.errors import EXIT_FAILED
from lorajob.cli.service import load_settings

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A list of name, state, finding, advice.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check whether jobs can run here, and say what to do where they cannot.

    Each line is ok, warn (jobs run, but see the advice; so too while no service is up) or fail
    (jobs cannot run). The exit code is 1 where something fails.
    """
    from lorajob.cli.doctor_checks import all_checks

    settings = load_settings()
    findings = []
    for finding in all_checks(settings):
        findings.append(finding)
        if not as_json:
            click.secho(f"{finding.state:5}", fg=STYLES[finding.state], nl=False)
            click.echo(f"{finding.name:10} {finding.text}")
            if finding.advice:
                click.echo(f"{'':16} {finding.advice}")
            sys.stdout.flush()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "fail" for finding in findings):
        ctx.exit(EXIT_FAILED)
