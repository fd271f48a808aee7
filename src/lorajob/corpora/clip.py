"""The parts of a corpus, the same for every format: entries, clips and their reader."""

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
    """A clip without its audio, as a table lists it. The reader finds the audio by `source`."""

    id: str
    source: str
    text: str
    speaker: str
    split: str


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance. `audio` is a file, or a file's bytes. Missing audio is empty bytes."""

    id: str  # unique in its corpus
    audio: Path | bytes
    text: str
    speaker: str  # "" if unknown
    split: str


class Reader(Protocol):
    """Finds the audio of entries."""

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        """Yield a clip for each entry, even if its audio is missing, in the fastest order."""
        ...


@dataclass(frozen=True)
class Corpus:
    """Clips in one language. Opening a corpus reads its tables; `clips` reads the audio."""

    entries: tuple[Entry, ...]
    reader: Reader

    @cached_property
    def splits(self) -> dict[str, int]:
        """The number of clips in each split."""
        return dict(Counter(entry.split for entry in self.entries))

    def clips(self, splits: Collection[str], only: Collection[str] | None = None) -> Iterator[Clip]:
        """Yield the clips of `splits`, always in the same order. `only` limits them to these ids.

        Raises CorpusError if the files are damaged.
        """
        wanted = [
            entry
            for entry in self.entries
            if entry.split in splits and (only is None or entry.id in only)
        ]
        return self.reader.read(wanted)


@dataclass(frozen=True)
class FileReader:
    """Reads audio from files in folders."""

    folder: Path

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        for entry in entries:
            audio = self.folder / entry.source if entry.source else b""
            yield Clip(entry.id, audio, entry.text, entry.speaker, entry.split)
