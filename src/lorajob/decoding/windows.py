"""The encoder's input: log-mel features of windows that are cut, or padded as faster-whisper does.

Needs only numpy and faster-whisper, which load much faster than torch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray

from lorajob.speech.audio import Samples
from lorajob.whisper.window import (
    CUT_MARGIN_SECONDS,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
    encoder_frames,
)

Batch = TypeVar("Batch")


def extractor(mel_bins: int) -> FeatureExtractor:
    """faster-whisper's log-mel of audio at 16 kHz."""
    return FeatureExtractor(feature_size=mel_bins)


def features(extract: FeatureExtractor, clips: Sequence[Samples], cut: bool) -> NDArray[np.float32]:
    """float32 [clips, mel bins, frames] of clips of up to 30 s.

    Cut windows end half a second behind the longest clip, in silence. Padded windows are those of
    faster-whisper: 30 s long, with zeros behind the log-mel of the clip.
    """
    rows = _cut(extract, clips) if cut else [_padded(extract, clip) for clip in clips]
    return np.ascontiguousarray(np.stack(rows), dtype=np.float32)


def read_ahead(
    batches: Iterable[Batch], read: Callable[[Batch], NDArray[np.float32]], threads: int
) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Each batch and what `read` makes of it, in order. `threads` read ahead; with 0, none do."""
    if not threads:
        for batch in batches:
            yield batch, read(batch)
        return
    waiting: deque[tuple[Batch, Future[NDArray[np.float32]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(read, batch)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def decode_batches(seconds: Sequence[float], batch_size: int, cut: bool) -> Iterator[slice]:
    """Yield batches of clips, given their lengths in descending order.

    A batch has `batch_size` windows of 30 s. If windows are `cut`, it has at most as much audio,
    and up to twice as many clips: a step of the decoder reads all its weights for any number of
    rows, so larger batches save time. Many more cost more padding than they save.
    """
    start = 0
    while start < len(seconds):
        size = batch_size
        if cut:
            window = min(seconds[start] + CUT_MARGIN_SECONDS, WINDOW_SECONDS)
            size = min(2 * batch_size, int(batch_size * WINDOW_SECONDS / window))
        yield slice(start, start + size)
        start += size


def _cut(extract: FeatureExtractor, clips: Sequence[Samples]) -> list[NDArray[np.float32]]:
    samples = FRAME_SAMPLES * max(encoder_frames(len(clip)) for clip in clips)
    heard = [clip[:samples] for clip in clips]
    return [extract(np.pad(clip, (0, samples - len(clip))), padding=0) for clip in heard]


def _padded(extract: FeatureExtractor, clip: Samples) -> NDArray[np.float32]:
    # WhisperModel.transcribe drops the last frame, which lies behind the clip.
    frames = extract(clip[:WINDOW_SAMPLES], padding=HOP_SAMPLES)[:, :-1][:, :WINDOW_FRAMES]
    padded: NDArray[np.float32] = np.pad(frames, ((0, 0), (0, WINDOW_FRAMES - frames.shape[1])))
    return padded
