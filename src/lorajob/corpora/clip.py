"""The parts of a corpus, the same for every format: entries, clips and their reader."""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lorajob.corpora.entries import Entry, chosen, values_of

TRAIN, DEV, TEST = "train", "dev", "test"
SPLITS = (TRAIN, DEV, TEST)
SPLIT_NAMES = {
    "training": TRAIN,
    "validation": DEV,
    "valid": DEV,
    "val": DEV,
    "eval": DEV,
    "evaluation": DEV,
    "development": DEV,
    "testing": TEST,
}

# Role of a column, such as text -> its name. Any mapping from str to str.
Columns = Mapping[Any, str]
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Clip(Entry):
    """An entry with its audio: a file, or a file's bytes. Missing audio is empty bytes."""

    audio: Path | bytes = b""

    @classmethod
    def of(cls, entry: Entry, audio: Path | bytes) -> "Clip":
        """The clip of an entry."""
        return cls(*(*values_of(entry), audio))


class AudioSource(Protocol):
    """Finds the audio of entries."""

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        """Yield a clip for each entry, even if its audio is missing, in the fastest order.

        Segments of one recording come one after another, by their start. They share one object as
        `audio`.
        """
        ...

    def stamp(self, entry: Entry) -> str:
        """Changes with the audio of the entry, such as a file's size and time of change."""
        ...


@dataclass(frozen=True)
class Corpus:
    """Clips in one language. Opening a corpus reads its tables; `clips` reads the audio."""

    entries: Sequence[Entry]
    reader: AudioSource
    repeated: int = 0  # rows that name a clip of an entry again

    @cached_property
    def splits(self) -> dict[str, int]:
        """The number of clips in each split."""
        return dict(Counter(entry.split for entry in self.entries))

    def clips(self, splits: Collection[str], only: Container[str] | None = None) -> Iterator[Clip]:
        """Yield the clips of `splits`, always in the same order. `only` limits them to these ids.

        Raises CorpusError if the files are damaged.
        """

        def is_wanted(entry: Entry) -> bool:
            return entry.split in splits and (only is None or entry.id in only)

        return self.reader.read(chosen(self.entries, is_wanted))
