"""`lorajob languages`."""

import json

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def languages(as_json: bool) -> None:
    """List the languages that lorajob supports.

    A line has code, name, scripts (ISO 15924), Whisper's language token, and the error rate to use:
    wer or cer. A language without a token of its own uses that of a related language, and the line
    says why.

    \b
    The fields of the --json objects:
      code, name, scripts, token, metric
      stand_in     true if the token is that of another language
      note         why; null for a language's own token
    """
    from lorajob.languages import known_languages

    found = known_languages()
    if as_json:
        rows = [
            {
                "code": each.code,
                "name": each.name,
                "scripts": list(each.scripts),
                "token": each.token,
                "metric": each.primary_metric,
                "stand_in": each.token != each.code,
                "note": each.note or None,
            }
            for each in found
        ]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for each in found:
        scripts = ",".join(each.scripts)
        note = f"  {each.note}" if each.note else ""
        line = f"{each.code:<12}{each.name:<32}{scripts:<12}{each.token:<7}{each.primary_metric}"
        click.echo(f"{line}{note}")
