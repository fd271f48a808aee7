"""Decodes a delivered model and its base on the same clips, as their users do.

Both are decoded at the same time if two processors are there: a step of the decoder is hardly
faster on two. The transcripts are the same as one after the other.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Condition, Event
from typing import Literal

import ctranslate2
import faster_whisper
from pydantic import TypeAdapter

from lorajob.cores import threads_a_stage
from lorajob.decoding.delivered import DecodedClips, HeardClip, Placement, listen, usual_placement
from lorajob.decoding.fast import Sound
from lorajob.languages import find_language
from lorajob.speech.text import normalise
from lorajob.storage import cache
from lorajob.whisper import ct2
from lorajob.whisper.conversion import base_hashes

# Version of how the base model decodes, part of the cache key: raise it with every change.
VERSION = 5
KIND = "base-transcripts"
FAR_CLIPS = 20  # after so many, a base that is far from the delivered model is decoded no further
FAR = 0.5  # it is far if so large a share of the delivered model's words is not in its transcripts
TOGETHER_BYTES = 700e6  # two larger models at the same time may not fit the memory
TURN_SECONDS = 0.5  # between two looks for a stop

_HEARD = TypeAdapter(list[HeardClip])


class BaseModel:
    """The base model. It is converted when it is first needed: its transcripts are often cached."""

    def __init__(self, source: Path, compute_type: str, target: Path) -> None:
        self.source, self.compute_type = source, compute_type
        self._target = target

    def folder(self) -> Path:
        """The folder of the base model in CTranslate2's format."""
        if not (self._target / "model.bin").exists():
            ct2.convert(self.source, self._target, self.compute_type)
        return self._target

    def identity(self) -> dict[str, object]:
        """What decides the transcripts of the base model, as JSON."""
        return {"base": base_hashes(self.source), "compute_type": self.compute_type}


@dataclass(frozen=True)
class Clips:
    """The clips that both models hear, in their order, and how.

    `identity` is JSON that names the clips. `language` is a Whisper code. `seconds` limits the time
    of each model. The base hears at most `base_clips` clips, or as many as `auto` says.
    """

    sounds: Sequence[Sound]
    identity: dict[str, object]
    language: str
    seed: int
    seconds: float | None
    base_clips: int | Literal["auto"] | None
    one_by_one: bool = False  # never both models at the same time, so that the speed is comparable

    @property
    def of_base(self) -> Sequence[Sound]:
        """The clips that the base hears at most."""
        most = self.base_clips if isinstance(self.base_clips, int) else None
        return self.sounds[:most]


@dataclass
class PairPace:
    """What is told of the progress: `delivered` and `base` are called after each clip of a model,
    and may raise to stop; `next` is called when the delivered model has ended."""

    delivered: Callable[[int], None]
    base: Callable[[int], None]
    next: Callable[[], None]


def far_apart(first: Sequence[str], second: Sequence[str], language: str) -> bool:
    """Whether over half of the words of `first` are missing in `second`, clip by clip.

    In scripts without spaces, pairs of neighbouring characters count as words.
    """
    spaced = find_language(language).primary_metric == "wer"

    def units(said: str) -> Counter[str]:
        plain = normalise(said, language)
        if spaced:
            return Counter(plain.split())
        plain = plain.replace(" ", "")
        return Counter(map("".join, pairwise(plain)))

    pairs = [(units(one), units(other)) for one, other in zip(first, second, strict=True)]
    total = sum(one.total() for one, _ in pairs)
    return total > 0 and sum((one - other).total() for one, other in pairs) > FAR * total


@dataclass
class _Delivered:
    """What the delivered model has heard so far. The base waits for it."""

    language: str
    heard: list[HeardClip] = field(default_factory=list)
    ended: bool = False
    _news: Condition = field(default_factory=Condition)

    def add(self, heard: Sequence[HeardClip]) -> bool:
        with self._news:
            self.heard = [*heard]
            self._news.notify_all()
        return False

    def end(self) -> None:
        with self._news:
            self.ended = True
            self._news.notify_all()

    def enough(self, base: Sequence[HeardClip]) -> bool:
        """Whether the base is far from the delivered model. Waits until that is known."""
        count = len(base)
        if count < FAR_CLIPS:
            return False
        with self._news:
            self._news.wait_for(lambda: len(self.heard) >= count or self.ended)
            heard = self.heard[:count]
        if len(heard) < count:
            return True  # clips that only one model heard are not compared
        return far_apart([it.text for it in heard], [it.text for it in base], self.language)


@dataclass(frozen=True)
class Pair:
    """What both models heard; `together` if at the same time, each on half of the threads."""

    delivered: DecodedClips
    base: DecodedClips
    together: bool

    @property
    def placements(self) -> dict[str, list[Placement]]:
        return {"base": [self.base.placement], "delivered": [self.delivered.placement]}


def hear_both(model: Path, base: BaseModel, clips: Clips, pace: PairPace) -> Pair:
    """What the delivered `model` and `base` hear in the first of the clips.

    What the base hears is cached by base model, clips, device and type.
    """
    delivered = _Delivered(clips.language)
    rule = delivered.enough if clips.base_clips == "auto" else _never
    threads = _threads()
    together = (
        not clips.one_by_one
        and threads > 1
        and bool(clips.of_base)
        and _fit_together(model)
        and not _kept(base, clips, usual_placement())
    )
    if together:
        models = model, base.folder()
        own, heard = _together(models, clips, pace, (delivered, rule), threads // 2)
    else:
        own = listen(model, clips.language, clips.sounds, clips.seed, clips.seconds, pace.delivered)
        delivered.add(own.clips)
        delivered.end()
        pace.next()
        # The base is as large as the delivered model, so it is decoded in the same place.
        taken = _taken(_kept(base, clips, own.placement), rule)
        heard = (
            _listen_base(base.folder(), clips, pace.base, rule)
            if taken is None
            else DecodedClips(taken, own.placement)
        )
    stopped = rule(heard.clips) if heard.clips else False
    value = {"heard": _HEARD.dump_python(heard.clips, mode="json")}
    cache.keep(KIND, _cache_key(base, clips, heard.placement, stopped), value)
    return Pair(own, heard, together)


def _never(heard: Sequence[HeardClip]) -> bool:
    return False


def _cache_key(base: BaseModel, clips: Clips, placement: Placement, stopped: bool) -> str:
    return cache.key(
        version=VERSION,
        **base.identity(),
        **placement.identity(),
        sample=clips.identity,
        language=clips.language,
        seed=clips.seed,
        seconds=clips.seconds,
        of_base=len(clips.of_base),
        stopped=stopped,
        libraries=[ctranslate2.__version__, faster_whisper.__version__],
    )


@dataclass(frozen=True)
class _Kept:
    """What the base heard for an earlier job. `stopped`: by the rule, for that job's model."""

    heard: list[HeardClip]
    stopped: bool


def _kept(base: BaseModel, clips: Clips, placement: Placement) -> list[_Kept]:
    entries = (
        (it, cache.lookup(KIND, _cache_key(base, clips, placement, it))) for it in (False, True)
    )
    return [
        _Kept(_HEARD.validate_python(found["heard"]), stopped)
        for stopped, found in entries
        if found is not None
    ]


def _taken(
    kept: Sequence[_Kept], rule: Callable[[Sequence[HeardClip]], bool]
) -> list[HeardClip] | None:
    """What decoding would hear; None if no entry has enough clips."""
    for entry in kept:
        for count in range(1, len(entry.heard) + 1):
            if rule(entry.heard[:count]):
                return entry.heard[:count]
        if not entry.stopped:
            return entry.heard
    return None


def _listen_base(
    folder: Path,
    clips: Clips,
    done: Callable[[int], None],
    rule: Callable[[Sequence[HeardClip]], bool],
    threads: int = 0,
) -> DecodedClips:
    given = clips.language, clips.of_base, clips.seed, clips.seconds
    return listen(folder, *given, done, rule, threads)


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else threads_a_stage()


def _fit_together(model: Path) -> bool:
    small = (model / "model.bin").stat().st_size <= TOGETHER_BYTES
    return small and not ctranslate2.get_cuda_device_count()


class _Stopped(Exception):
    """The base ends, because the stage does."""


def _together(
    models: tuple[Path, Path],
    clips: Clips,
    pace: PairPace,
    rule: tuple["_Delivered", Callable[[Sequence[HeardClip]], bool]],
    threads: int,
) -> tuple[DecodedClips, DecodedClips]:
    """What this thread hears by the delivered model, and a second thread by the base."""
    (model, base), (delivered, enough) = models, rule
    stop, count = Event(), [0]

    def told(heard: int) -> None:
        count[0] = heard
        if stop.is_set():
            raise _Stopped

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(_listen_base, base, clips, told, enough, threads)

        def add(heard: Sequence[HeardClip]) -> bool:
            # A fault of the base ends both.
            if future.done():
                future.result()
            return delivered.add(heard)

        try:
            own = listen(
                model,
                clips.language,
                clips.sounds,
                clips.seed,
                clips.seconds,
                pace.delivered,
                add,
                threads,
            )
            delivered.end()
            pace.next()
            while wait_for([future], TURN_SECONDS).not_done:
                pace.base(count[0])
        except BaseException:
            stop.set()
            raise
        finally:
            delivered.end()
    return own, future.result()
