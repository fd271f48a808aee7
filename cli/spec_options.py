"""The settings of a job as `lorajob submit --help` lists them, from the schema of JobSpec."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Setting:
    """One name that `--set` takes."""

    name: str
    default: str
    allowed: str
    description: str


def settings() -> Iterator[Setting]:
    """Every setting below preprocess, train, evaluate and convert, and the seed, in order."""
    from lorajob.spec import JobSpec

    schema = JobSpec.model_json_schema()
    yield _setting("seed", schema["properties"]["seed"])
    for name, field in schema["properties"].items():
        if "$ref" not in field:
            continue  # language, corpus, base_model: each has an option of its own
        config = schema["$defs"][field["$ref"].rpartition("/")[2]]
        for inner, inner_field in config["properties"].items():
            yield _setting(f"{name}.{inner}", inner_field)


def write_settings(formatter: click.HelpFormatter) -> None:
    """Append the settings and the presets to a command's help."""
    from lorajob.spec import PRESETS

    with formatter.section("Settings of --set, with their defaults"):
        formatter.write_dl(
            [
                (f"{each.name}={each.default}", f"{each.description} [{each.allowed}]")
                for each in settings()
            ],
            col_max=34,
        )
    with formatter.section("Presets"):
        formatter.write_dl([(name, _differences(values)) for name, values in PRESETS.items()])


def _setting(name: str, field: dict[str, Any]) -> Setting:
    return Setting(
        name=name,
        default=_written(field.get("default")),
        allowed=_allowed(field),
        description=field.get("description", ""),
    )


def _written(value: object) -> str:
    """A value as `--set` takes it: YAML in one line, without needless quotes."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _allowed(field: dict[str, Any]) -> str:
    """What a JSON schema admits, in a few words: `whole number >= 0`, `a or b`."""
    if "anyOf" in field:
        return " or ".join(_allowed(each) for each in field["anyOf"])
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if field["type"] == "array":
        return f"list of {_allowed(field['items'])}"
    names = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true, false",
        "string": "text",
    }
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    bounds = [f"{sign} {field[key]}" for key, sign in signs.items() if key in field]
    return " ".join([names.get(field["type"], field["type"]), " and ".join(bounds)]).strip()


def _differences(values: dict[str, Any]) -> str:
    """What a preset changes, as `--set` would say it."""
    lines = [
        f"{name}.{inner}={_written(value)}"
        for name, config in values.items()
        for inner, value in config.items()
    ]
    return " ".join(lines) or "the defaults above"
