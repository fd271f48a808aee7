"""`lorajob promote` and `lorajob rollback`."""

import json
from datetime import datetime

import click

from lorajob.cli.context import JOB, load_settings


@click.command()
@click.argument("job", type=JOB, required=False)
@click.option("--force", is_flag=True, help="Promote the model even if its gate failed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: language, job, at, forced.")
def promote(job: str | None, force: bool, as_json: bool) -> None:
    """Use the model of JOB for its language in `lorajob serve`.

    Without JOB, list the promoted models. A running server loads the new model, then uses it for
    all further requests. Open requests end with the old model. A model whose gate failed is
    refused without --force.
    """
    from lorajob.tasks.promotions import Promotions

    promotions = Promotions(load_settings())
    if job is None:
        rows = [(code, promotions.current(code)) for code in promotions.languages()]
    else:
        rows = [promotions.promote(job, force)]
    for language, promotion in rows:
        if promotion is None:
            continue
        if as_json:
            values = {"language": language} | promotion.model_dump(mode="json")
            click.echo(json.dumps(values, ensure_ascii=False))
            continue
        at = datetime.fromtimestamp(promotion.at).astimezone().strftime("%Y-%m-%d %H:%M")
        note = ", although its gate failed" if promotion.forced else ""
        click.echo(f"{language}: {promotion.job}, promoted {at}{note}")
    if not rows and not as_json:
        click.echo("lorajob: no model is promoted; `lorajob promote JOB` promotes one", err=True)


@click.command()
@click.argument("language", metavar="LANG")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: language, job, instead_of.")
def rollback(language: str, as_json: bool) -> None:
    """Use the previously promoted model of LANG again."""
    from lorajob.tasks.promotions import Promotions

    code, old, new = Promotions(load_settings()).rollback(language)
    if as_json:
        click.echo(json.dumps({"language": code, "job": new.job, "instead_of": old.job}))
    else:
        click.echo(f"{code}: {new.job} instead of {old.job}")
