"""The rows of a corpus's tables, in a temporary file: memory does not grow with the corpus."""

import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from operator import attrgetter
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lorajob.corpora.ids import hashed
from lorajob.visible import encodable

BLOCK_ROWS = 64  # rows that are written and read together
KEPT_BLOCKS = 16  # blocks in memory, for rows that are not asked for in their order


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


# The values of an entry, in the order of its fields.
values_of: Callable[[Entry], Any] = attrgetter(*(it.name for it in fields(Entry)))


class EntryList(Sequence[Entry]):
    """A sequence of entries that can be extended. All but the last few are in a temporary file.

    Ids, speakers and splits are kept as they can be written in UTF-8. A source stays as it is: it
    may be the name of a file that is not UTF-8.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._last: list[Entry] = []
        self._starts: list[int] = []  # the place of each block in the file
        self._size = 0
        self._file = -1  # opened when the first block is written
        self._kept: dict[int, list[Entry]] = {}
        self.extend(entries)

    def append(self, entry: Entry) -> None:
        """Add one entry. Raises OSError if the disk is full."""
        self._last.append(_encodable(entry))
        if len(self._last) == BLOCK_ROWS:
            self._write()

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add entries. Raises OSError if the disk is full."""
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return len(self._starts) * BLOCK_ROWS + len(self._last)

    def __iter__(self) -> Iterator[Entry]:
        for number in range(len(self._starts)):
            yield from self._read(number)
        yield from self._last

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(index, slice):
            return tuple(self[it] for it in range(*index.indices(len(self))))
        place = range(len(self))[index]
        block, row = divmod(place, BLOCK_ROWS)
        if block == len(self._starts):
            return self._last[row]
        if block not in self._kept:
            if len(self._kept) >= KEPT_BLOCKS:
                self._kept.clear()
            self._kept[block] = self._read(block)
        return self._kept[block][row]

    def _write(self) -> None:
        if self._file < 0:
            # The file has no name, so it is removed even if this process is killed.
            with tempfile.TemporaryFile(prefix="lorajob-rows-") as file:
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
        data = pickle.dumps([values_of(entry) for entry in self._last], pickle.HIGHEST_PROTOCOL)
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._size + written)
        except OSError as error:
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error
        self._starts.append(self._size)
        self._size += len(data)
        self._last = []

    def _read(self, number: int) -> list[Entry]:
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else self._size
        data = os.pread(self._file, end - start, start)
        return [Entry(*fields) for fields in pickle.loads(data)]


def _encodable(entry: Entry) -> Entry:
    named = entry.id, entry.speaker, entry.split
    if "".join(named).isascii() or (found := tuple(map(encodable, named))) == named:
        return entry
    return replace(entry, id=found[0], speaker=found[1], split=found[2])


class Chosen(Sequence[Entry]):
    """Some of the entries of a sequence, by their numbers [count], in that order."""

    def __init__(self, entries: Sequence[Entry], numbers: NDArray[np.int64]) -> None:
        self._entries, self._numbers = entries, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Entry]:
        return (self._entries[int(it)] for it in self._numbers)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "Chosen": ...
    def __getitem__(self, index: int | slice) -> "Entry | Chosen":
        if isinstance(index, slice):
            return Chosen(self._entries, self._numbers[index])
        return self._entries[int(self._numbers[index])]


def chosen(entries: Sequence[Entry], wanted: Callable[[Entry], bool]) -> Chosen:
    """The entries that are wanted, in their order."""
    found = array("q", (number for number, it in enumerate(entries) if wanted(it)))
    return Chosen(entries, np.frombuffer(found, np.int64))


def by_recording(entries: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """Each source with its entries, in the order of first use. Those of one source are by start."""
    found, _ = by_key(entries, lambda entry: entry.source)
    for source, group in groupby(found, key=lambda entry: entry.source):
        yield source, list(group)


def by_key(
    entries: Sequence[Entry], key: Callable[[Entry], str]
) -> tuple[Chosen, NDArray[np.uint64]]:
    """The entries with those of one key together, by start, in the order of each key's first use.

    Also the hash of each one's key [count].
    """
    found, segments, starts = array("Q"), array("b"), array("d")
    for entry in entries:
        found.append(hashed(key(entry)))
        segments.append(entry.is_segment)
        starts.append(entry.start)
    keys = np.frombuffer(found, np.uint64)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.lexsort((np.frombuffer(starts), np.frombuffer(segments, np.int8), first[inverse]))
    return Chosen(entries, order), keys[order]
