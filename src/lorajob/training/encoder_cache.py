"""Stores a frozen encoder's outputs of clips: computed once, and read in each epoch.

If only the decoder is trained, the encoder output of a clip that is alone in a cut window never
changes. The order of encoding depends only on the lengths of the clips. So a training that
continues in another process gets the same bits.

    FOLDER/outputs-00000.safetensors ...   a tensor [frames, width] of each clip, named by its index
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorajob.speech.clipstore import ClipStore
from lorajob.training.packing import Window
from lorajob.whisper.features import pad_windows
from lorajob.whisper.window import (
    CUT_MARGIN_SECONDS,
    FRAMES_A_SECOND,
    WINDOW_SECONDS,
    encoder_frames,
)

SHARD_CLIPS = 256  # clips of 4 s take 55 MB for whisper-base and 140 MB for large


class EncodedClips:
    """Stored encoder outputs, by the index of the clip. Empty by default.

    Only the folder's name and the list of clips are pickled, for the loader processes.
    """

    def __init__(self, folder: Path | None = None, shards: Sequence[Sequence[int]] = ()) -> None:
        self.folder = folder
        self.shards = shards
        self._shard_of = {clip: number for number, clips in enumerate(shards) for clip in clips}

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (self.folder, self.shards)

    def __len__(self) -> int:
        return len(self._shard_of)

    def __contains__(self, clip: object) -> bool:
        return clip in self._shard_of

    def __getitem__(self, clip: int) -> Tensor:
        """Encoder outputs [frames, width], including half a second of silence behind the clip."""
        rows: Tensor = self._open[self._shard_of[clip]].get_tensor(str(clip))
        return rows

    @property
    def bytes(self) -> int:
        """Size of the files in bytes."""
        return sum(path.stat().st_size for path in self._paths)

    @cached_property
    def _open(self) -> list[Any]:
        return [safe_open(path, framework="pt") for path in self._paths]

    @property
    def _paths(self) -> list[Path]:
        if self.folder is None:
            return []
        return [shard_path(self.folder, number) for number in range(len(self.shards))]


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"outputs-{number:05d}.safetensors"


def clips_heard_again(
    windows: Iterable[Window], seconds: Sequence[float], frame_bytes: int, most_bytes: float
) -> list[list[int]]:
    """The clips to encode once, in shards: those that are in a cut window more than once.

    They are sorted longest first, and end when their outputs would take more than `most_bytes`.
    """
    times = Counter(
        window.clips[0]
        for window in windows
        if window.cut and window.clips and window.altered is None
    )
    again = [clip for clip, count in times.items() if count > 1]
    chosen: list[int] = []
    for clip in sorted(again, key=lambda clip: (-seconds[clip], clip)):
        most_bytes -= (seconds[clip] + CUT_MARGIN_SECONDS) * FRAMES_A_SECOND * frame_bytes
        if most_bytes < 0:
            break
        chosen.append(clip)
    return [chosen[at : at + SHARD_CLIPS] for at in range(0, len(chosen), SHARD_CLIPS)]


def write_shard(
    path: Path,
    clips: Sequence[int],
    store: ClipStore,
    encode: Callable[[Tensor], Tensor],
    done: Callable[[int], None],
) -> None:
    """Encode clips, as many at a time as fit into 30 s, and store the frames of each clip.

    `clips` are sorted longest first. `encode` maps float32 audio [windows, samples] to [windows,
    frames, width]. `done` is called after each pass with its number of clips.
    """
    outputs: dict[str, Tensor] = {}
    start = 0
    while start < len(clips):
        longest = float(store.seconds[clips[start]]) + CUT_MARGIN_SECONDS
        batch = clips[start : start + max(1, int(WINDOW_SECONDS / longest))]
        audio = [store.audio(clip) for clip in batch]
        encoded = encode(pad_windows(audio, cut=True)).cpu()
        for clip, samples, rows in zip(batch, audio, encoded, strict=True):
            outputs[str(clip)] = rows[: encoder_frames(len(samples))].clone()
        start += len(batch)
        done(len(batch))
    save_file(outputs, path)
