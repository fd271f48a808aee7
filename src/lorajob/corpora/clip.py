"""The parts of a corpus, the same for every format: entries, clips and their reader."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

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
class Entry:
    """A clip without its audio, as a table lists it. The reader finds the audio by `source`."""

    id: str  # unique in its corpus
    source: str
    text: str
    speaker: str  # "" if unknown
    split: str
    start: float = 0.0  # seconds in the recording
    end: float | None = None  # seconds; None: the recording's end
    fault: str = ""  # why its row in the table cannot be used, as a reason to drop it
    start_slack: float = 0.0  # seconds by which the start may move to a pause in the speech
    end_slack: float = 0.0

    @property
    def is_segment(self) -> bool:
        """Whether the clip is a part of its recording."""
        return self.end is not None or self.start > 0

    @property
    def has_slack(self) -> bool:
        """Whether an end of the clip is looked for in a pause."""
        return self.start_slack > 0 or self.end_slack > 0


@dataclass(frozen=True, slots=True)
class Clip(Entry):
    """An entry with its audio: a file, or a file's bytes. Missing audio is empty bytes."""

    audio: Path | bytes = b""

    @classmethod
    def of(cls, entry: Entry, audio: Path | bytes) -> "Clip":
        """The clip of an entry."""
        return cls(
            entry.id,
            entry.source,
            entry.text,
            entry.speaker,
            entry.split,
            entry.start,
            entry.end,
            entry.fault,
            entry.start_slack,
            entry.end_slack,
            audio,
        )


class AudioSource(Protocol):
    """Finds the audio of entries."""

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        """Yield a clip for each entry, even if its audio is missing, in the fastest order.

        Segments of one recording come one after another, by their start. They share one object as
        `audio`.
        """
        ...

    def stamp(self, entry: Entry) -> str:
        """Changes with the audio of the entry, such as a file's size and time of change."""
        ...


def by_recording(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Entries by their source, in the order of first use. Those of one source are by start."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.source, []).append(entry)
    for group in found.values():
        group.sort(key=lambda entry: (entry.is_segment, entry.start))
    return found


@dataclass(frozen=True)
class Corpus:
    """Clips in one language. Opening a corpus reads its tables; `clips` reads the audio."""

    entries: tuple[Entry, ...]
    reader: AudioSource
    repeated: int = 0  # rows that name a clip of an entry again

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
