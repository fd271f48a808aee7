"""Reads the clips of a training ahead, for disks that are slow at random reads.

A training takes its clips in random order, within a buffer of some hours (shuffling.py). A thread
reads the blocks of consecutive clips that come up, each from its start to its end. So the disk only
sees long reads, and the clips are in the system's file cache when the training needs them.
"""

import logging
import threading
from collections.abc import Container, Sequence

from lorajob.speech.clipstore import ClipStore
from lorajob.training.packing import Window, is_encoded
from lorajob.training.shuffling import BLOCK_CLIPS

READ_BYTES = 1 << 20  # at a time

log = logging.getLogger(__name__)


class ReadAhead:
    """Reads the audio of coming windows in a thread, so that the system keeps it in memory.

    It reads whole blocks of clips, up to `horizon` windows ahead of the training. A block that was
    read for a window within the last `horizon` windows is not read again. `encoded` are the clips
    whose encoder outputs are stored; their audio is not needed. What cannot be read is left to the
    training, which raises the error.
    """

    def __init__(
        self,
        store: ClipStore,
        windows: Sequence[Window],
        first: int,
        horizon: int,
        encoded: Container[int] = (),
    ) -> None:
        self._store, self._windows, self._encoded = store, windows, encoded
        self._first = self._reached = first
        self._horizon = horizon
        self._closed = False
        self._changed = threading.Condition()
        self._buffer = bytearray(READ_BYTES)
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self.blocks: list[int] = []  # that were read, in order

    def reach(self, window: int) -> None:
        """The training has come to this window. The first call starts the thread."""
        with self._changed:
            self._reached = window
            self._changed.notify()
        # Loader processes are forked before the first step, without the thread.
        if self._thread.ident is None:
            self._thread.start()

    def close(self) -> None:
        """End the thread. It first finishes the read that it has begun."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        newest: dict[int, int] = {}  # block -> the last window that needed it
        for number in range(self._first, len(self._windows)):
            window = self._windows[number]
            if is_encoded(window, self._encoded):
                continue
            for block in {clip // BLOCK_CLIPS for clip in window.clips}:
                there = block in newest and number - newest[block] <= self._horizon
                newest[block] = number
                if not there and not self._read_in_time(block, number):
                    return

    def _read_in_time(self, block: int, window: int) -> bool:
        """Wait until the block is due, and read it. Returns whether the thread goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or window <= self._reached + self._horizon)
        try:
            self._read(block)
        except OSError as error:
            log.info("clips are not read ahead any more: %s", error)
            return False
        self.blocks.append(block)
        return not self._closed

    def _read(self, block: int) -> None:
        clips = range(block * BLOCK_CLIPS, min((block + 1) * BLOCK_CLIPS, len(self._store)))
        for extent in self._store.extents(clips):
            with extent.path.open("rb", buffering=0) as file:
                file.seek(extent.start)
                left = extent.size
                while left > 0 and not self._closed:
                    got = file.readinto(memoryview(self._buffer)[: min(left, READ_BYTES)])
                    if not got:
                        break
                    left -= got
