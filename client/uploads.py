"""Sends corpora of this machine to a service over HTTP, before its jobs read them."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorajob.client.models import Note
from lorajob.client.web_api import (
    LONG_SECONDS,
    LONGEST_PAUSE,
    MOST_FAILURES,
    AnswerError,
    WebApi,
)
from lorajob.errors import ServiceError, UsageError
from lorajob.job.jobdir import hash_file
from lorajob.languages import find_language
from lorajob.spec_yaml import merge, nested, parse_value
from lorajob.storage.urls import local_path, public
from lorajob.tasks.uploads import SUFFIXES, Upload

PIECE_BYTES = 32 << 20
PLACES = ("corpus", "test_corpus", "more_corpora", "gate")  # settings that name corpora
MOST_LETTERS = 150  # of a name
# Answers that another request holds the corpus: it may read the whole file for its hash.
MOST_BUSY = int(LONG_SECONDS / LONGEST_PAUSE)
Spec = Mapping[str, object]


def with_uploads(api: WebApi, specs: Sequence[Spec], note: Note) -> list[Spec]:
    """The settings of jobs with the service's paths in place of corpora that only this machine has.

    These are sent first, if they are one file: an archive or a Parquet file. A file of the same
    path and size on the service is used in its place. `note` hears so. Raises LorajobError.
    """
    here = {file for spec in specs for place in corpora_of(spec) if (file := _file(place, spec))}
    if not here:
        return list(specs)
    sizes = [{"path": str(it), "bytes": it.stat().st_size} for it in sorted(here)]
    try:
        missing = set(api.post("/corpora/missing", {"files": sizes})["missing"])
    except AnswerError as error:
        # An older service takes no corpora.
        if error.status != 404:
            raise
        return list(specs)
    sent: dict[Path, str] = {}
    for file in sorted(here):
        if str(file) in missing:
            sent[file] = upload_corpus(api, file, note)
        else:
            sent[file] = str(file)
            note(f"{file}: the service's copy is used")

    def found(spec: Spec) -> Callable[[str], str]:
        return lambda place: sent.get(_file(place, spec) or Path(), place)

    return [_with_corpora(spec, found(spec)) for spec in specs]


def with_sets(
    specs: Sequence[Spec], more: Mapping[str, object]
) -> tuple[list[Spec], dict[str, object]]:
    """The settings of jobs with those `sets` of `more` in them that name corpora, and the rest.

    The places in them are then sent, or explained, as others are. The rest stays text: JSON cannot
    hold every value of YAML. Raises UsageError.
    """
    lines = [str(it) for it in sets] if isinstance(sets := more.get("sets"), list) else []
    chosen = [it for it in lines if _names_corpora(it)]
    found = list(specs)
    for line in chosen:
        name, _, text = line.partition("=")
        value = nested(name.split("."), parse_value(text, line))
        found = [merge(it, value) for it in found]
    return found, {**more, "sets": [it for it in lines if it not in chosen]} if chosen else {**more}


def _names_corpora(line: str) -> bool:
    """Whether a line such as `gate.corpora=[...]` names corpora."""
    name, equals, text = line.partition("=")
    first, *rest = name.split(".")
    if not equals or first != "gate":
        return bool(equals) and first in PLACES
    if rest:
        return rest[0] == "corpora"
    value = parse_value(text, line)
    return isinstance(value, Mapping) and "corpora" in value


def corpora_of(spec: Spec) -> list[str]:
    """The paths and urls of corpora that the settings of a job name."""
    found: list[str] = []

    def note(place: str) -> str:
        found.append(place)
        return place

    _with_corpora(spec, note)
    return found


def _with_corpora(spec: Spec, found: Callable[[str], str]) -> Spec:
    """The settings with `found(place)` in place of each corpus. Malformed ones stay as they are."""
    changes: dict[str, object] = {}
    for name in ("corpus", "test_corpus"):
        if isinstance(place := spec.get(name), str) and place:
            changes[name] = found(place)
    if isinstance(more := spec.get("more_corpora"), list | tuple):
        changes["more_corpora"] = [_with_corpus(it, found) for it in more]
    gate = spec.get("gate")
    if isinstance(gate, Mapping) and isinstance(guards := gate.get("corpora"), list | tuple):
        changes["gate"] = {**gate, "corpora": [_with_corpus(it, found) for it in guards]}
    return {**spec, **changes}


def _with_corpus(entry: object, found: Callable[[str], str]) -> object:
    if isinstance(entry, Mapping) and isinstance(place := entry.get("corpus"), str) and place:
        return {**entry, "corpus": found(place)}
    return entry


def _file(place: str, spec: Spec) -> Path | None:
    """The file of this machine that a job of these settings would read, if it can be sent."""
    path = local_path(_named(place, spec))
    if path is None or not path.name.lower().endswith(SUFFIXES):
        return None
    try:
        # A link keeps its name: its target may have no suffix.
        whole = path.expanduser().absolute()
        return whole if whole.is_file() else None
    # An unknown ~user, a null byte, a name that is too long.
    except (RuntimeError, ValueError, OSError):
        return None


def _named(place: str, spec: Spec) -> str:
    try:
        code = find_language(str(spec.get("language", ""))).code
    except UsageError:
        return place
    return place.replace("{language}", code)


def upload_corpus(api: WebApi, path: Path, note: Note) -> str:
    """Send a corpus, and return its path on the service.

    A lost connection is opened again for two minutes, and goes on where it was. While another
    request holds the corpus, the service is asked for half an hour. Raises UsageError for a file
    that is missing, is no archive or changes meanwhile, DiskError if the service has no
    room, and ServiceError.
    """
    path, upload = _opened(path)
    state: Any = None  # unknown: the service is asked
    told, received, failures = False, 0, 0
    while True:
        try:
            if state is None:
                state = api.post("/corpora", None, seconds=LONG_SECONDS, **vars(upload))
            if int(state["received"]) > received:
                received, failures = int(state["received"]), 0
            if state["corpus"] is not None:
                break
            if not told:
                note(f"uploading {path.name}, {upload.bytes / 1e6:,.1f} MB, to {public(api.url)}")
                told = True
            state = _send(api, path, upload, int(state["received"]))
        except ServiceError as error:
            failures, state = failures + 1, None
            if not _may_pass(error, failures):
                raise
            time.sleep(min(2.0 ** min(failures - 1, 10), LONGEST_PAUSE))
    if not told:
        note(f"{path.name} is on the service already")
    return str(state["corpus"])


def _may_pass(error: ServiceError, failures: int) -> bool:
    if not isinstance(error, AnswerError):
        return failures <= MOST_FAILURES
    return error.may_pass and failures <= (MOST_BUSY if error.status == 429 else MOST_FAILURES)


def _opened(path: Path) -> tuple[Path, Upload]:
    """A corpus to send: its path, and its name, hash and size. Raises UsageError."""
    if not path.name.lower().endswith(SUFFIXES):
        raise UsageError(
            f"FILE: {path.name} is not one of {', '.join(SUFFIXES)}; pack a folder with its tables "
            "and audio as .tar.gz"
        )
    try:
        path = path.expanduser()
        if not path.is_file():
            why = "is a folder; pack it as .tar.gz" if path.is_dir() else "does not exist"
            raise UsageError(f"FILE: {path} {why}")
        size = path.stat().st_size
        if not size:
            raise UsageError(f"FILE: {path} is empty")
        return path, Upload(_plain(path.name), hash_file(path), size)
    # An unknown ~user; a file that may not be read.
    except (RuntimeError, OSError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"FILE: {path} cannot be read: {why}") from None


def _send(api: WebApi, path: Path, upload: Upload, place: int) -> Any:
    with path.open("rb") as file:
        file.seek(place)
        piece = file.read(PIECE_BYTES)
    if not piece:
        raise UsageError(f"{path} became shorter while it was sent; send it again")
    return api.send_data("/corpora", piece, vars(upload) | {"offset": place}, LONG_SECONDS)


def _plain(name: str) -> str:
    """A name that the service takes: of ASCII, with the same end."""
    end = next(it for it in SUFFIXES if name.lower().endswith(it))
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", name[: -len(end)]).lstrip("._+-")
    return f"{stem[: MOST_LETTERS - len(end)] or 'corpus'}{end}"
