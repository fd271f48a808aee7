"""`lorajob promote` and `lorajob rollback`."""

import json
from datetime import datetime

import click

from lorajob.cli.context import JOB, job_of, open_client


@click.command()
@click.argument("job", type=JOB, required=False)
@click.option("--force", is_flag=True, help="Promote the model even if its gate failed.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: language, job, at, forced, unchecked."
)
def promote(job: str | None, force: bool, as_json: bool) -> None:
    """Use the model of JOB for its language in `lorajob serve`.

    Without JOB, list the promoted models. A running server loads the new model, then uses it for
    all further requests. Open requests end with the old model. A model whose gate failed is
    refused without --force.
    """
    from lorajob.job.results import gate_words

    rows = open_client().promoted() if job is None else [job_of(job).promote(force)]
    for row in rows:
        if as_json:
            click.echo(json.dumps(row.model_dump(mode="json"), ensure_ascii=False))
            continue
        at = datetime.fromtimestamp(row.at).astimezone().strftime("%Y-%m-%d %H:%M")
        note = ", although its gate failed" if row.forced else ""
        if row.unchecked and not row.forced:
            left = ", ".join(row.unchecked)
            note = f"; its gate {gate_words('passed', len(row.unchecked))}: {left}"
        click.echo(f"{row.language}: {row.job}, promoted {at}{note}")
    if not rows and not as_json:
        click.echo("lorajob: no model is promoted; `lorajob promote JOB` promotes one", err=True)


@click.command()
@click.argument("language", metavar="LANG")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: language, job, instead_of.")
def rollback(language: str, as_json: bool) -> None:
    """Use the previously promoted model of LANG again."""
    found = open_client().rollback(language)
    if as_json:
        click.echo(json.dumps(found.model_dump()))
    else:
        click.echo(f"{found.language}: {found.job} instead of {found.instead_of}")
