"""`lorajob doctor`."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from lorajob.cli import doctor_checks
from lorajob.cli.context import load_settings
from lorajob.cli.doctor_checks import Finding
from lorajob.cli.errors import EXIT_FAILED
from lorajob.visible import raw_stream

if TYPE_CHECKING:
    from lorajob.worker.settings import Settings

STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="Print a list of objects: name, state, text, advice."
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check whether jobs can run here, and give advice if they cannot.

    Each line says ok, warn or fail. warn: read the advice; jobs run, unless the warning is about
    the service or its workers. fail: jobs cannot run. The exit code is 1 if a line says fail, else
    0.
    """
    settings = load_settings()
    findings = []
    for finding in all_checks(settings):
        findings.append(finding)
        if not as_json:
            state = f"{finding.state:5}"
            out = raw_stream(sys.stdout)
            click.secho(state, fg=STYLES[finding.state], nl=False, file=out)
            click.echo(f"{finding.name:10} {finding.text}")
            if finding.advice:
                click.echo(f"{'':16} {finding.advice}")
            sys.stdout.flush()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "fail" for finding in findings):
        ctx.exit(EXIT_FAILED)


def all_checks(settings: "Settings") -> Iterator[Finding]:
    """All findings. Checks come after those that they depend on."""
    versions = doctor_checks.check_versions()
    yield versions
    if versions.state == "fail":
        return  # the other checks need these packages
    from lorajob.cli import service_checks

    yield doctor_checks.check_decoding()
    yield doctor_checks.check_disk(settings.jobs)
    yield from doctor_checks.check_store(settings.store_url)
    yield service_checks.check_memory()
    yield from service_checks.check_gpus()
    yield from service_checks.check_decoder()
    yield from doctor_checks.check_corpora(settings.corpora)
    yield service_checks.check_server(settings)
    yield from service_checks.check_service(settings)
