"""`lorajob batch`, and what `submit` does with more than one language."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorajob.cli.context import open_jobs
from lorajob.cli.spec_options import (
    ANEW,
    PRIORITY,
    WAIT,
    complete_spec,
    read_spec,
    refuse_one_language,
)
from lorajob.errors import UsageError
from lorajob.storage.urls import public

if TYPE_CHECKING:
    from lorajob.spec import JobSpec
    from lorajob.tasks.batches import Submitted
    from lorajob.tasks.jobs import Jobs
    from lorajob.worker.queues import Priority

KEYS = ("defaults", "languages")
PLACE = "{language}"


@click.command(
    epilog="""\b
FILE, with two keys:
  defaults:                       # settings of every language
    base_model: openai/whisper-small
    corpus: data/{language}.tsv   # {language} becomes its code
    preset: fast
    train: {epochs: 2}
  languages:                      # or a list: [hi, mr, ta]
    hi:
    mr: {train: {epochs: 5}}      # what differs for one
    ta: {corpus: elsewhere/tamil.tar.gz}

\b
Standard output: the batch's id, alone; `status`, `watch`, `cancel` and `retry`
take it. The same file submitted again prints the same id and queues nothing
twice, whoever does it, with whatever priority, and whatever lies in
LORAJOB_CORPORA by then. A language whose corpus is not there is noted as
rejected, and stops no other; submitted again, it is queued once it is there.
Exit code: 0 queued (with --wait: all succeeded), 1 failed, 2 wrong usage."""
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="As for submit, for all.")
@PRIORITY
@ANEW
@WAIT
@click.pass_context
def batch(
    ctx: click.Context,
    file: Path,
    sets: tuple[str, ...],
    priority: "Priority",
    anew: bool,
    wait: bool,
) -> None:
    """Queue the languages of FILE as one batch, a job each, and print its id.

    Relative paths start from the folder you are in; but a corpus that FILE names is looked for
    beside FILE first, and taken to belong there where it is in neither place.
    """
    specs = read_batch(file, sets)
    ctx.exit(submit_specs(open_jobs(), specs, priority, anew, wait))


def submit_specs(
    jobs: "Jobs", specs: "list[JobSpec]", priority: "Priority", anew: bool, wait: bool
) -> int:
    """Queue the batch, print its id, and follow it where asked to; returns the exit code."""
    from lorajob.tasks.batches import submit_batch

    _check_specs(specs)
    salt = secrets.token_hex(8) if anew else ""
    submitted = submit_batch(jobs, specs, priority, salt)
    for job, why in submitted.rejected.items():
        click.echo(f"lorajob: {job} is rejected: {why}", err=True)
    if note := _found_before(submitted, priority):
        click.echo(f"lorajob: {submitted.batch.id} {note}", err=True)
    click.echo(submitted.batch.id)
    if not wait:
        return 0
    from lorajob.cli.watch import follow_batch

    return follow_batch(jobs, submitted.batch.id)


def _found_before(submitted: "Submitted", priority: "Priority") -> str:
    """What to say of a batch that was there already; nothing of one that is new or completed."""
    kept = submitted.batch.priority
    how = f" and keeps its priority {kept}" if kept != priority else ""
    if submitted.queued:
        return f"was submitted before{how}" if how else ""
    return f"was submitted before{how}; nothing is queued twice (--anew queues it again)"


def _check_specs(specs: "list[JobSpec]") -> None:
    """Raise UsageError where two languages would be trained on one corpus, or one twice alike."""
    languages: dict[str, str] = {}
    seen: set[str] = set()
    for spec in specs:
        if (text := spec.model_dump_json()) in seen:
            raise UsageError(f"language: {spec.language} is there twice, with the same settings")
        seen.add(text)
        if not spec.corpus:
            continue  # it is looked for by its language
        other = languages.setdefault(spec.corpus, spec.language)
        if other != spec.language:
            raise UsageError(
                f"corpus: {public(spec.corpus)!r} is one for {other} and {spec.language};"
                f" put {PLACE} in it"
            )


def read_batch(path: Path, sets: tuple[str, ...]) -> "list[JobSpec]":
    """The specs of a batch file, one a language. Raises UsageError naming what is wrong."""
    refuse_one_language(sets)
    values = read_spec(path, "batch")
    if unknown := set(values) - set(KEYS):
        raise UsageError(f"batch: {path}: no such key: {min(unknown)}; allowed: {', '.join(KEYS)}")
    defaults = values.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise UsageError(f"batch: {path}: defaults holds no mapping of settings")
    entries = _entries(values.get("languages"), path)
    return [_spec({**entry}, defaults, sets, path.parent) for entry in entries]


def _entries(languages: Any, path: Path) -> list[dict[str, Any]]:
    """What each language changes, `language` among it."""
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


def _spec(
    own: dict[str, Any], defaults: dict[str, Any], sets: tuple[str, ...], beside: Path
) -> "JobSpec":
    from lorajob.spec import merge
    from lorajob.storage.urls import local_path

    values = merge(defaults, own)
    preset = values.pop("preset", "default")
    spec = complete_spec(values, preset, sets, strict=False)
    in_file = "corpus" in values and not any(line.startswith("corpus=") for line in sets)
    path = local_path(spec.corpus)
    if not in_file or not spec.corpus or path is None:
        return spec
    corpus = path.expanduser()
    if corpus.exists() and not (beside / corpus).exists():
        return spec
    # one that is in neither place, too: the batch keeps its id once its corpora are deleted
    return spec.model_copy(update={"corpus": str(beside / corpus)})
