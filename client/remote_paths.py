"""Paths in the settings of jobs that another machine runs: errors say whose paths are meant."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorajob.errors import CorpusError, UsageError
from lorajob.storage.urls import local_path

ABOUT_PLACES = (  # in errors
    "does not exist",
    "is a relative path",
    "is neither a folder",
    "is no file",
    "is not a folder",
)
CORPORA = ("corpus: ", "test_corpus: ", "more_corpora", "gate.corpora")  # in front of errors
PLACES = ("corpus", "more_corpora", "test_corpus", "base_model", "gate")  # settings with paths
NO_URLS = ("augment.",)  # settings whose paths are no urls
PARTS = {"augment": ("noise_folder", "room_folder"), "evaluate": ("text", "glossary")}


@contextmanager
def of_the_service(specs: Sequence[Mapping[str, object]]) -> Iterator[None]:
    """Errors about a path of the block's `specs` that exists here say whose paths are meant."""
    try:
        yield
    except (UsageError, CorpusError) as error:
        raise type(error)(explained(str(error), specs)) from None


def explained(error: str, specs: Sequence[Mapping[str, object]]) -> str:
    """The error of a server about a path, with a hint if that path exists on this machine."""
    if not any(it in error for it in ABOUT_PLACES):
        return error
    # The server speaks of its own machine.
    told = error.replace("on this machine", "on the service's machine")
    advice = "copy it there" if error.startswith(NO_URLS) else "copy it there, or give a url"
    corpus = error.startswith(CORPORA)
    for place in sorted({it for spec in specs for it in _places_of(spec)}, key=len, reverse=True):
        if place in error and _is_here(place):
            if corpus:
                advice += f", or {_pack(place)} and submit that file, which is sent there"
            return (
                f"{told}; it exists on this machine, but jobs read paths of the service's "
                f"machines: {advice}"
            )
    return told


def _pack(place: str) -> str:
    """How to make a corpus one file: a command for a folder."""
    path = Path(str(local_path(place))).expanduser().absolute()
    if not path.is_dir():
        return "pack it with its audio as .tar.gz"
    packed, folder = f"{path.name or 'corpus'}.tar.gz", path.name or "."
    # -h: what links point to. tar reads a name with a colon as one of another machine.
    packed = f"./{packed}" if packed.startswith("-") or ":" in packed else packed
    folder = f"./{folder}" if folder.startswith("-") else folder
    words = ["tar", "-chzf", packed, "-C", str(path.parent), folder]
    return f"pack it with `{shlex.join(words)}`"


def _places_of(spec: Mapping[str, object]) -> Iterator[str]:
    """The texts in settings that hold paths, with the language in place of `{language}`."""
    waiting: list[object] = [spec[name] for name in PLACES if name in spec]
    for part, names in PARTS.items():
        if isinstance(values := spec.get(part), Mapping):
            waiting += [values[name] for name in names if name in values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str) and value:
            yield value.replace("{language}", str(spec.get("language", "")))


def _is_here(place: str) -> bool:
    path = local_path(place)
    try:
        return path is not None and path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a null byte
        return False
