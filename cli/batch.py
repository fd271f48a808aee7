"""`lorajob batch`, and `lorajob submit` with more than one language."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import open_client
from lorajob.cli.spec_options import (
    ANEW,
    NAME,
    PRIORITY,
    TAG,
    TRACKER,
    WAIT,
    complete_spec,
    read_spec,
    refuse_one_language,
    tracker_values,
)
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.client.service import Client
    from lorajob.spec import JobSpec
    from lorajob.tasks.batches import Submitted
    from lorajob.worker.queues import Priority
    from lorajob.worker.records.names import Naming

KEYS = ("defaults", "languages")


@click.command(
    epilog="""\b
FILE is YAML with two keys:
  defaults:                       # settings of all languages
    base_model: openai/whisper-small
    corpus: data/{language}.tsv   # {language} becomes the language's code
    preset: fast
    train: {epochs: 2}
  languages:                      # or a list: [hi, mr, ta]
    hi:
    mr: {train: {epochs: 5}}      # settings of this language only
    ta: {corpus: elsewhere/tamil.tar.gz}

\b
Standard output: only the batch's id. `status`, `watch`, `cancel` and `retry`
take it. If the same settings are submitted again, by any user and with any
priority, the command prints the same id and queues nothing twice.
A language whose corpus, text or glossary is missing is rejected; the others
are queued. When the file is there, submit FILE again: only that language is
then queued.
Exit code: 0 queued (with --wait: all succeeded), 1 failed, 2 wrong usage."""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="As for `lorajob submit`; for all languages.",
)
@NAME
@TAG
@TRACKER
@PRIORITY
@ANEW
@WAIT
@click.pass_context
def batch(
    ctx: click.Context,
    file: Path,
    sets: tuple[str, ...],
    name: str | None,
    tags: tuple[str, ...],
    trackers: tuple[str, ...],
    priority: "Priority",
    anew: bool,
    wait: bool,
) -> None:
    """Queue a job for each language of FILE as one batch, and print the batch's id.

    Relative paths start from the current folder. A relative corpus that FILE names may also be
    beside FILE: that place is tried first.
    """
    from lorajob.tasks.naming import parse_naming

    naming = parse_naming(name, tags)
    chosen = tracker_values(trackers)
    specs = [it.model_copy(update=chosen) for it in read_batch(file, sets)]
    ctx.exit(submit_specs(open_client(), specs, priority, anew, wait, naming))


def submit_specs(
    client: "Client",
    specs: "list[JobSpec]",
    priority: "Priority",
    anew: bool,
    wait: bool,
    naming: "Naming",
) -> int:
    """Queue the batch, print its id and, with `wait`, follow it. Returns the exit code."""
    salt = secrets.token_hex(8) if anew else ""
    return tell_submitted(
        client, client.submit_batch(specs, priority, naming, salt), priority, wait
    )


def tell_submitted(client: "Client", submitted: "Submitted", priority: str, wait: bool) -> int:
    """Print the id of a batch that was submitted with `priority`, and follow it with `wait`.

    Returns the exit code.
    """
    for job, why in submitted.rejected.items():
        click.echo(f"lorajob: {job} is rejected: {why}", err=True)
    for change in submitted.notes:
        click.echo(f"lorajob: {change}", err=True)
    if note := _found_before(submitted, priority):
        click.echo(f"lorajob: {submitted.batch.id} {note}", err=True)
    click.echo(submitted.batch.id)
    if not wait:
        return 0
    from lorajob.cli.watch import follow_batch

    return follow_batch(client.batch(submitted.batch.id))


def _found_before(submitted: "Submitted", priority: str) -> str:
    """A note on a batch that was submitted before; empty if there is nothing to note."""
    kept = submitted.batch.priority
    how = f" and keeps its priority {kept}" if kept != priority else ""
    if submitted.queued:
        return f"was submitted before{how}" if how else ""
    return f"was submitted before{how}; nothing is queued twice (--anew queues it again)"


def read_batch(path: Path, sets: tuple[str, ...]) -> "list[JobSpec]":
    """The specs of a batch file, one for each language. Raises UsageError if it is malformed."""
    refuse_one_language(sets)
    return [_spec(values, sets, path.parent) for values in batch_entries(path)]


def batch_entries(path: Path) -> list[dict[str, object]]:
    """The settings of each language of a batch file, with its defaults, before they are checked.

    Raises UsageError if the file is malformed.
    """
    from lorajob.spec_yaml import merge

    values = read_spec(path, "batch")
    if unknown := set(values) - set(KEYS):
        raise UsageError(f"batch: {path}: no such key: {min(unknown)}; allowed: {', '.join(KEYS)}")
    defaults = values.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise UsageError(f"batch: {path}: defaults is not a mapping of settings")
    return [merge(defaults, entry) for entry in _entries(values.get("languages"), path)]


def _entries(languages: object, path: Path) -> list[dict[str, object]]:
    """The own settings of each language, including `language`."""
    if isinstance(languages, dict):
        pairs = [(str(name), own) for name, own in languages.items()]
        for name, own in pairs:
            if isinstance(own, dict) and "language" in own:
                other = own["language"]
                raise UsageError(f"batch: {path}: languages: {name} has `language: {other}` in it")
    elif isinstance(languages, list):
        pairs = [
            (str(one.get("language", "")), one) if isinstance(one, dict) else (str(one), None)
            for one in languages
        ]
    else:
        pairs = []
    if not pairs:
        raise UsageError(f"batch: {path}: languages: missing; a list or mapping, such as [hi, mr]")
    for name, own in pairs:
        if not name or not (own is None or isinstance(own, dict)):
            raise UsageError(f"batch: {path}: languages: {name or own!r} holds no mapping")
    return [{**(own or {}), "language": name} for name, own in pairs]


def _spec(values: dict[str, object], sets: tuple[str, ...], beside: Path) -> "JobSpec":
    from lorajob.storage.urls import local_path

    preset = values.pop("preset", "default")
    spec = complete_spec(values, preset, sets, strict=False)
    named = {line.partition("=")[0] for line in sets}
    own_gate = values.get("gate")
    in_file = ({"corpus", "more_corpora", "test_corpus"} & values.keys()) - named

    def found(place: str) -> str:
        path = local_path(place)
        if not place or path is None:
            return place
        corpus = path.expanduser()
        if corpus.exists() and not (beside / corpus).exists():
            return place
        # A corpus that is in neither place gets the same path. So the batch keeps its id when its
        # corpora are deleted later.
        return str(beside / corpus)

    beside_it = spec.with_places(found)
    if isinstance(own_gate, dict) and "corpora" in own_gate and "gate.corpora" not in named:
        in_file.add("gate")
    return spec.model_copy(update={name: getattr(beside_it, name) for name in in_file})
