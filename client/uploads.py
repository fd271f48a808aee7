"""Sends corpora of this machine to a service over HTTP, before its jobs read them."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorajob.client.models import Note
from lorajob.client.web_api import LONG_SECONDS, LONGEST_PAUSE, MOST_FAILURES, WebApi
from lorajob.errors import ServiceError, UsageError
from lorajob.job.jobdir import hash_file
from lorajob.languages import find_language
from lorajob.storage.urls import local_path, public
from lorajob.tasks.uploads import SUFFIXES, Upload

PIECE_BYTES = 32 << 20
MOST_LETTERS = 150  # of a name
Spec = Mapping[str, object]


def with_uploads(api: WebApi, specs: Sequence[Spec], note: Note) -> list[Spec]:
    """The settings of jobs with the service's paths in place of corpora that only this machine has.

    These are sent first, if they are one file: an archive or a Parquet file. `note` hears so.
    Raises LorajobError.
    """
    here = {file for spec in specs for place in corpora_of(spec) if (file := _file(place, spec))}
    if not here:
        return list(specs)
    sizes = [{"path": str(it), "bytes": it.stat().st_size} for it in sorted(here)]
    missing = set(api.post("/corpora/missing", {"files": sizes})["missing"])
    sent = {
        it: upload_corpus(api, it, note) if str(it) in missing else str(it) for it in sorted(here)
    }

    def found(spec: Spec) -> Callable[[str], str]:
        return lambda place: sent.get(_file(place, spec) or Path(), place)

    return [_with_corpora(spec, found(spec)) for spec in specs]


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
        whole = path.expanduser().resolve()
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

    A lost connection is opened again for two minutes, and goes on where it was. Raises UsageError
    for a file that is no archive or changes meanwhile, DiskError if the service has no room, and
    ServiceError.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise UsageError(
            f"FILE: {path.name} is not one of {', '.join(SUFFIXES)}; pack a folder with its tables "
            "and audio as .tar.gz"
        )
    size = path.stat().st_size
    if not size:
        raise UsageError(f"FILE: {path} is empty")
    upload = Upload(_plain(path.name), hash_file(path), size)
    state = _ask(api, upload)
    if state["corpus"] is not None:
        note(f"{path.name} is on the service already")
        return str(state["corpus"])
    note(f"uploading {path.name}, {size / 1e6:,.1f} MB, to {public(api.url)}")
    failures = 0
    while state["corpus"] is None:
        try:
            state = _send(api, path, upload, int(state["received"]))
            failures = 0
        except ServiceError:
            failures += 1
            if failures > MOST_FAILURES:
                raise
            time.sleep(min(2.0 ** (failures - 1), LONGEST_PAUSE))
            state = _again(api, upload, state)
    return str(state["corpus"])


def _ask(api: WebApi, upload: Upload) -> Any:
    """How much of a corpus the service has."""
    return api.post("/corpora", None, seconds=LONG_SECONDS, **vars(upload))


def _again(api: WebApi, upload: Upload, state: Any) -> Any:
    """The same; what was known before if the service is still unavailable."""
    try:
        return _ask(api, upload)
    except ServiceError:
        return state


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
