"""`lorajob promote` and `lorajob rollback`."""

import json
from datetime import datetime

import click

from lorajob.cli.context import load_settings


@click.command()
@click.argument("job", required=False)
@click.option("--force", is_flag=True, help="Promote the model although its gate failed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: language, job, at, forced.")
def promote(job: str | None, force: bool, as_json: bool) -> None:
    """Let the model of JOB answer for its language in `lorajob serve`.

    A running server loads the new model, then uses it from the next request on. Requests that have
    begun end with the old model. Without JOB, prints the promoted models. A model whose gate failed
    is refused, unless --force is given, which is recorded.
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
        note = ", in spite of a failed gate" if promotion.forced else ""
        click.echo(f"{language}: {promotion.job}, promoted {at}{note}")
    if not rows and not as_json:
        click.echo("lorajob: no model is promoted; `lorajob promote JOB` promotes one", err=True)


@click.command()
@click.argument("language", metavar="LANG")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: language, job, instead_of.")
def rollback(language: str, as_json: bool) -> None:
    """Let the model that was promoted before answer for LANG again."""
    from lorajob.tasks.promotions import Promotions

    code, old, new = Promotions(load_settings()).rollback(language)
    if as_json:
        click.echo(json.dumps({"language": code, "job": new.job, "instead_of": old.job}))
    else:
        click.echo(f"{code}: {new.job} instead of {old.job}")
