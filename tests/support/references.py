"""Finds reference texts in what decoders are given while a stage runs."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial, wraps
from types import FunctionType, MethodType
from typing import Any

import pytest

from lorajob import evaluate
from lorajob.book import job_text, trial
from lorajob.decoding import paired
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.speech.clipstore import ClipStore

DECODERS = [
    (FastDecoder, "__init__"),
    (FastDecoder, "decode"),
    (evaluate, "decode"),
    (evaluate, "hear_both"),
    (evaluate, "transcribe_long"),
    (paired, "listen"),
    (trial, "decode_with_book"),
    (job_text, "hear"),
]


def watch_decoders(monkeypatch: pytest.MonkeyPatch, references: AbstractSet[str]) -> set[str]:
    """Each call of a decoder fails if a reference, or a store of clips, can be reached from what
    it is given. A `Sound` may read a store's audio, and nothing else of it.

    Returns the names of the decoders that were called, which grow.
    """
    called: set[str] = set()
    for owner, name in DECODERS:
        decoder = f"{owner.__name__.rpartition('.')[2]}.{name}"
        watched = _watched(getattr(owner, name), decoder, references, called)
        monkeypatch.setattr(owner, name, watched)
    return called


def _watched(
    decode: Callable[..., Any], name: str, references: AbstractSet[str], called: set[str]
) -> Callable[..., Any]:
    @wraps(decode)
    def watched(*args: object, **options: object) -> object:
        called.add(name)
        found = [it for it in _reached([args, options], set()) if _tells(it, references)]
        assert not found, f"{name} is given {found}"
        return decode(*args, **options)

    return watched


def _tells(it: object, references: AbstractSet[str]) -> bool:
    if isinstance(it, str):
        return any(text in it for text in references)
    return isinstance(it, ClipStore)


def _reached(it: object, seen: set[int]) -> Iterator[object]:
    """An object, and all that can be reached from it by attributes, items and closures."""
    if id(it) in seen:
        return
    seen.add(id(it))
    yield it
    for part in _parts(it):
        yield from _reached(part, seen)


def _parts(it: object) -> list[object]:
    if isinstance(it, Sound) and getattr(it.read, "func", None):
        read: Any = it.read
        if isinstance(read.func, MethodType) and read.func.__func__ is ClipStore.audio:
            return [*read.args, read.keywords]
    if isinstance(it, Mapping):
        return [*it.keys(), *it.values()]
    if isinstance(it, list | tuple | set | frozenset):
        return [*it]
    if isinstance(it, partial):
        return [it.func, it.args, it.keywords]
    if isinstance(it, MethodType):
        return [it.__self__]
    if isinstance(it, FunctionType):
        cells = [cell.cell_contents for cell in it.__closure__ or ()]
        return [*cells, it.__defaults__, it.__kwdefaults__]
    if type(it).__module__.startswith("lorajob."):
        return [*vars(it).values()] if hasattr(it, "__dict__") else []
    return []
