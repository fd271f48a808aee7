"""What a corpus is made of, whatever it is read from."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

TRAIN, DEV, TEST = "train", "dev", "test"
SPLIT_NAMES = {"validation": DEV, "valid": DEV, "val": DEV, "eval": DEV, "training": TRAIN}

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip as a table names it: everything but its audio. `source` leads the reader to that."""

    id: str
    source: str
    text: str
    speaker: str
    split: str


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance. `audio` is a file, or a file's bytes (empty where the corpus lacks it)."""

    id: str  # unique in its corpus
    audio: Path | bytes
    text: str
    speaker: str  # "" where unknown
    split: str


class Reader(Protocol):
    """Finds the audio of entries."""

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        """A clip for each of `entries`, missing audio included, in whatever order is quickest."""
        ...


@dataclass(frozen=True)
class Corpus:
    """Clips in one language. Opening it reads its tables, `clips` reads the audio."""

    entries: tuple[Entry, ...]
    reader: Reader

    @cached_property
    def splits(self) -> dict[str, int]:
        """Clips in each split."""
        return dict(Counter(entry.split for entry in self.entries))

    def clips(self, splits: Collection[str], only: Collection[str] | None = None) -> Iterator[Clip]:
        """Clips of `splits` (of them only the ids in `only`), one at a time, always in one order.

        Raises CorpusError where the files turn out damaged.
        """
        wanted = [
            entry
            for entry in self.entries
            if entry.split in splits and (only is None or entry.id in only)
        ]
        return self.reader.read(wanted)


@dataclass(frozen=True)
class FileReader:
    """Audio lying as files in folders."""

    folder: Path

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        for entry in entries:
            audio = self.folder / entry.source if entry.source else b""
            yield Clip(entry.id, audio, entry.text, entry.speaker, entry.split)
