"""Transcribes sounds with a model, by faster-whisper with its own defaults.

Checks use only the protocol `Hearing`, so a test can give them any transcripts.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import ctranslate2
import faster_whisper
from pydantic import BaseModel, TypeAdapter

from lorajob.decoding.delivered import (
    WINDOW_SECONDS,
    Placement,
    UsersModel,
    load_for_users,
    sound_hash,
)
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.storage import cache

# Part of the cache key: raise it with every change of the cached transcripts.
VERSION = 2
KIND = "gate"


class TimeOver(Exception):
    """`gate.minutes` have passed."""


class Word(BaseModel, frozen=True):
    """A word and its times in the sound, in seconds."""

    start: float
    end: float
    text: str


class Line(BaseModel, frozen=True):
    """A segment of a transcript and its times in the sound, in seconds."""

    start: float
    end: float
    text: str
    words: list[Word] = []


# usual: all defaults of faster-whisper. words: also with the times of words. brief: with a limit of
# tokens, for sounds on which a model may loop: a loop takes minutes with the defaults.
Manner = Literal["usual", "words", "brief"]
OPTIONS: dict[Manner, dict[str, object]] = {
    "usual": {},
    "words": {"word_timestamps": True},
    "brief": {"max_new_tokens": 48, "temperature": (0.0, 0.4, 1.0)},
}
BRIEF_CHARACTERS = 400  # after which a brief transcription ends

_LINES = TypeAdapter(list[list[Line]])


class Hearing(Protocol):
    """A model that transcribes as its users do."""

    def transcribe(
        self, sounds: Sequence[Samples], language: str, manner: Manner = "usual"
    ) -> list[list[Line]]:
        """The transcripts of sounds of any length, at 16 kHz. `language` is a Whisper code."""
        ...

    def languages(self, sounds: Sequence[Samples]) -> list[str]:
        """The Whisper language code that the model detects in the first 30 s of each sound."""
        ...


@dataclass
class Clock:
    """Limits the time of all checks. `tick` is called for each sound, and may raise to stop.

    `checking` is the guard that is checked now, `share` how many of all are done, 0 to 1.
    """

    seconds: float | None
    tick: Callable[[], None] = lambda: None
    checking: str = ""
    share: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raises TimeOver if the time has passed."""
        self.tick()
        if self.seconds is not None and time.monotonic() - self._started > self.seconds:
            raise TimeOver


@dataclass
class Slot:
    """Holds one loaded model at a time: two large ones may not fit the memory.

    `placements` has those of all models that were loaded.
    """

    owner: object = None
    whisper: UsersModel | None = None
    placements: list[Placement] = field(default_factory=list)

    def empty(self) -> None:
        """Free the memory of the model."""
        self.owner = self.whisper = None
        gc.collect()

    def lend(self, transcribe: Callable[[Samples], str], sound: Samples) -> str:
        """Transcribe with a model that is loaded for it, in the place of the one held."""
        self.empty()
        return transcribe(sound)


class LoadedModel:
    """The CTranslate2 model in a folder. It is loaded for its first sound.

    `identified` has the languages that it has already identified, by the `sound_hash` of the
    sound.
    """

    def __init__(
        self,
        folder: Callable[[], Path],
        clock: Clock,
        slot: Slot,
        identified: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._clock, self._slot = folder, clock, slot
        self._identified = dict(identified or {})

    def transcribe(
        self, sounds: Sequence[Samples], language: str, manner: Manner = "usual"
    ) -> list[list[Line]]:
        found = []
        for sound in sounds:
            self._clock.check()
            lines: list[Line] = []
            whisper = self._model()
            # Sentences in other languages are identified after they were transcribed.
            whisper.identifies, whisper.identified = manner == "brief", ""
            options: dict[str, Any] = OPTIONS[manner]
            segments, _ = whisper.transcribe(sound, language=language, **options)
            for it in segments:
                spoken = [Word(start=w.start, end=w.end, text=w.word) for w in it.words or ()]
                lines.append(Line(start=it.start, end=it.end, text=it.text.strip(), words=spoken))
                self._clock.check()
                if manner == "brief" and sum(len(it.text) for it in lines) > BRIEF_CHARACTERS:
                    break
            if whisper.identified and len(sound) <= WINDOW_SECONDS * SAMPLE_RATE:
                self._identified[sound_hash(sound)] = whisper.identified
            found.append(lines)
        return found

    def languages(self, sounds: Sequence[Samples]) -> list[str]:
        codes = []
        for sound in sounds:
            self._clock.check()
            known = self._identified.get(sound_hash(sound))
            codes.append(known or self._model().identify(sound))
        return codes

    def _model(self) -> UsersModel:
        slot = self._slot
        if slot.owner is not self or slot.whisper is None:
            slot.empty()
            # Sampling must not depend on what was decoded before.
            ctranslate2.set_random_seed(0)
            slot.owner, slot.whisper = self, load_for_users(self._folder())
            slot.placements.append(slot.whisper.placement)
        return slot.whisper


@dataclass(frozen=True)
class KeptModel:
    """A model whose transcripts are cached on this machine, by model and content of the sounds.

    `identity` is JSON that names the model.
    """

    model: Hearing
    identity: dict[str, object]

    def transcribe(
        self, sounds: Sequence[Samples], language: str, manner: Manner = "usual"
    ) -> list[list[Line]]:
        def hear() -> object:
            return _LINES.dump_python(self.model.transcribe(sounds, language, manner), mode="json")

        return _LINES.validate_python(self._kept(sounds, hear, language=language, manner=manner))

    def languages(self, sounds: Sequence[Samples]) -> list[str]:
        kept: list[str] = self._kept(sounds, lambda: self.model.languages(sounds))
        return kept

    def _kept(self, sounds: Sequence[Samples], hear: Callable[[], object], **how: object) -> Any:
        name = cache.key(
            version=VERSION,
            sounds=[sound_hash(sound) for sound in sounds],
            libraries=[ctranslate2.__version__, faster_whisper.__version__],
            model=self.identity,
            **how,
        )
        found = cache.lookup(KIND, name)
        if found is None:
            found = {"heard": hear()}
            cache.keep(KIND, name, found)
        return found["heard"]
