"""A queue of windows of all requests, which gives them out in batches.

A batch has windows of one key: the same prompt and options. It is filled by fair queueing: the
first windows of a new request come before the later windows of a long one, and no request waits
for ever. (Start-time fair queueing, Goyal, Vin and Cheng 1996, with windows of equal cost.)
"""

import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Clients that wait for an answer before they ask again come back together. The next batch waits for
# them for this share of the time of the last one.
PATIENCE = 0.05
MOST_PATIENCE_SECONDS = 0.25


@dataclass(frozen=True)
class Queued(Generic[Item]):
    """One window of a request that waits."""

    request: int
    place: int  # of the window in its request
    key: Hashable
    seconds: float  # of audio
    item: Item
    tag: float = 0.0  # start tag of fair queueing
    since: float = field(default_factory=time.monotonic)
    came: float = field(default_factory=time.time)  # since the epoch, for traces


class WindowQueue(Generic[Item]):
    """Windows that wait. All methods may be called from any thread.

    A batch is complete with `size` windows, or `gather_seconds` after its first window came. It
    waits somewhat longer for as many requests as the last batch had.
    """

    def __init__(self, size: int, gather_seconds: float) -> None:
        self.size, self.gather_seconds = size, gather_seconds
        self._waiting: list[Queued[Item]] = []
        self._changed = threading.Condition()
        self._virtual = 0.0  # the tag of the last window that was given out
        self._closed = False
        self._last_key: Hashable = None
        self._last_requests = 0
        self._patient_until = 0.0

    def put(
        self, request: int, key: Hashable, items: Sequence[Item], seconds: Sequence[float]
    ) -> None:
        """Add the windows of a request, in their order."""
        with self._changed:
            for place, (item, length) in enumerate(zip(items, seconds, strict=True)):
                tag = self._virtual + place
                self._waiting.append(Queued(request, place, key, length, item, tag))
            self._changed.notify_all()

    def drop(self, request: int) -> None:
        """Remove the windows of a request that has ended."""
        with self._changed:
            self._waiting = [it for it in self._waiting if it.request != request]

    def decoded(self, batch: Sequence[Queued[Item]], seconds: float) -> None:
        """Tell that a batch was decoded, and how long that took."""
        with self._changed:
            self._last_key = batch[0].key
            self._last_requests = len({it.request for it in batch})
            patience = min(PATIENCE * seconds, MOST_PATIENCE_SECONDS)
            self._patient_until = time.monotonic() + patience

    def close(self) -> None:
        """Let every `take` return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)

    def take(self) -> list[Queued[Item]] | None:
        """Wait for a batch, the longest windows first. None after `close`.

        The batch has the key of the window whose turn it is. If more windows of the key wait than
        fit, those of the most similar length are taken, so that few are padded.
        """
        with self._changed:
            while not self._closed:
                if not self._waiting:
                    self._changed.wait()
                    continue
                first = min(self._waiting, key=lambda it: (it.tag, it.since))
                alike = [it for it in self._waiting if it.key == first.key]
                left = self._complete_at(first, alike) - time.monotonic()
                if len(alike) < self.size and left > 0:
                    self._changed.wait(left)
                    continue
                batch = _fill(first, alike, self.size)
                taken = {id(it) for it in batch}
                self._waiting = [it for it in self._waiting if id(it) not in taken]
                self._virtual = max(self._virtual, first.tag)
                return sorted(batch, key=lambda it: -it.seconds)
            return None

    def _complete_at(self, first: Queued[Item], alike: Sequence[Queued[Item]]) -> float:
        """When a batch of these windows is taken, although it is not full."""
        usual = first.since + self.gather_seconds
        requests = len({it.request for it in alike})
        if first.key != self._last_key or requests >= self._last_requests:
            return usual
        return max(usual, self._patient_until)


def _fill(first: Queued[Item], alike: list[Queued[Item]], size: int) -> list[Queued[Item]]:
    """`first`, and of the next windows in turn those of the most similar length."""
    turn = deque(sorted((it for it in alike if it is not first), key=lambda it: it.tag))
    near = [turn.popleft() for _ in range(min(len(turn), 4 * size))]
    near.sort(key=lambda it: abs(it.seconds - first.seconds))
    return [first, *near[: size - 1]]
