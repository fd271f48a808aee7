"""Clips with their samples. A recording of which a corpus gives segments is decoded once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from lorajob.cores import threads_a_stage
from lorajob.corpora.clip import Clip
from lorajob.speech import audio
from lorajob.speech.segments import Cut, cut

Done = TypeVar("Done")
CLIPS_AHEAD = 4  # for each thread: clips decoded before the first of them is used


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip whose samples are cut out already, or are decoded when they are asked for."""

    clip: Clip
    found: Cut | audio.AudioError | None = None

    def samples(self, max_seconds: float) -> audio.Samples:
        """The clip's samples, mono at 16 kHz. Raises AudioError with the reason to drop it."""
        found = self.cut(max_seconds)
        return audio.load_audio(self.clip.audio, max_seconds) if found is None else found.mono()

    def cut(self, max_seconds: float) -> Cut | None:
        """The segment of the recording; None if the clip is all of it. Raises AudioError."""
        found, clip = self.found, self.clip
        if found is None and clip.is_segment:
            (found,) = cut(clip.audio, *_spans([clip], max_seconds))
        if isinstance(found, audio.AudioError):
            raise found
        return found


def pieces(clips: Iterable[Clip], max_seconds: float) -> Iterator[Piece]:
    """The clips in their order. Segments of one recording, which come together, are cut here.

    Other clips are decoded by `Piece.samples`, which may run in other threads.
    """
    for _, group in groupby(clips, key=_recording):
        together = list(group)
        if len(together) == 1:
            yield Piece(together[0])
            continue
        parts = cut(together[0].audio, *_spans(together, max_seconds))
        for clip, found in zip(together, parts, strict=True):
            yield Piece(clip, found)


def _spans(
    clips: Sequence[Clip], max_seconds: float
) -> tuple[list[tuple[float, float | None]], float, list[tuple[float, float]]]:
    """What `cut` takes for the segments of a recording."""
    slacks = [(clip.start_slack, clip.end_slack) for clip in clips]
    spans = [(clip.start, clip.end) for clip in clips]
    return spans, max_seconds, slacks if any(clip.has_slack for clip in clips) else []


def _recording(clip: Clip) -> object:
    """Equal for segments of one recording, and different for all other clips."""
    if not clip.is_segment or not clip.audio:
        return clip.id
    return id(clip.audio) if isinstance(clip.audio, bytes) else clip.audio


def in_threads(work: Callable[[Piece], Done], found: Iterable[Piece]) -> Iterator[Done]:
    """Call `work` on every piece in this stage's threads. Yields the results in their order.

    Few clips are in memory at a time. Threads are enough, because libsndfile, soxr, FFmpeg and the
    tokenizer all release Python's global lock.
    """
    threads = threads_a_stage()
    pending: deque[Future[Done]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for piece in found:
                pending.append(pool.submit(work, piece))
                if len(pending) >= CLIPS_AHEAD * (threads or 1):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
