"""Windows as the model takes them: padded audio, labels with or without timestamps."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec, TrainConfig
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore
from lorajob.training.encoder_cache import EncodedClips
from lorajob.training.packing import (
    PAUSE_SECONDS,
    ClipSizes,
    Window,
    clips_a_step,
    digest_plan,
    is_encoded,
    plan_run,
)
from lorajob.whisper.features import pad_windows
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import WINDOW_SECONDS

IGNORED = -100  # cross-entropy's ignore_index
PAUSE_SAMPLES = round(PAUSE_SECONDS * SAMPLE_RATE)


@dataclass(frozen=True)
class Course:
    """What a training will see: the clips, and the windows of each optimizer step."""

    store: ClipStore
    sizes: ClipSizes
    config: TrainConfig  # with the number of clips a step that suits the corpus
    plan: list[list[Window]]
    digest: str  # of the plan


def lay_out(spec: JobSpec, job: JobDir) -> Course:
    """The course of a job that was preprocessed."""
    store = ClipStore(job.stage_dir("preprocess") / "train")
    sizes = ClipSizes(store.seconds.tolist(), store.tokens.tolist(), store.speakers)
    clips = clips_a_step(spec.train, len(store))
    config = spec.train.model_copy(update={"batch_clips": clips})
    plan = plan_run(sizes, config, spec.seed)
    return Course(store, sizes, config, plan, digest_plan(plan, sizes))


@dataclass(frozen=True)
class Batch:
    """int64 labels [windows, tokens], padded with -100, and what they are the labels of: float32
    audio [windows, samples], or what the encoder made of it.

    The latter is `encoded` [windows, frames, width]; where some of it is padding, each window has
    but its first `frames` [windows].
    """

    labels: Tensor
    audio: Tensor | None = None
    encoded: Tensor | None = None
    frames: Tensor | None = None

    def pin_memory(self) -> "Batch":
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        there = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**{name: change(tensor) for name, tensor in there.items()})


@dataclass(frozen=True)
class Item:
    """One window: labels, and samples [-1, 1] at 16 kHz behind which it may end if it is `cut`; or,
    instead of these, what the encoder made of them, [frames, width].
    """

    labels: list[int]
    audio: NDArray[np.float32] | None
    cut: bool
    encoded: Tensor | None = None


class WindowDataset(Dataset[Item]):
    """Maps a window of the plan to its audio, or what is `encoded` of it, and labels."""

    def __init__(self, store: ClipStore, labels: Labels, windows: Sequence[Window]) -> None:
        self.store = store
        self.labels = labels
        self.windows = windows
        self.encoded = EncodedClips()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Item:
        window, labels = self.windows[index], self.label_ids(index)
        if is_encoded(window, self.encoded):
            return Item(labels, None, True, self.encoded[window.clips[0]])
        pause = np.zeros(PAUSE_SAMPLES, np.float32)
        audio: list[NDArray[np.float32]] = []
        for clip in window.clips:
            audio += [self.store.audio(clip), pause]
        return Item(labels, np.concatenate(audio[:-1]), window.cut)

    def label_ids(self, index: int) -> list[int]:
        """Labels of a window, without reading its audio."""
        window = self.windows[index]
        pieces = []
        position = 0.0
        for clip in window.clips:
            end = position + float(self.store.seconds[clip])
            pieces.append((self.store.texts[clip], position, min(end, WINDOW_SECONDS)))
            position = end + PAUSE_SECONDS
        return self.labels.window(pieces, window.timestamps)


def collate(items: list[Item]) -> Batch:
    """Pad labels and encoder outputs to the longest; audio to 30 s, or behind the longest where all
    are cut. A batch has one or the other.
    """
    longest = max(len(item.labels) for item in items)
    labels = torch.full((len(items), longest), IGNORED)
    for row, item in zip(labels, items, strict=True):
        row[: len(item.labels)] = torch.tensor(item.labels)
    encoded = [item.encoded for item in items if item.encoded is not None]
    if encoded:
        frames = torch.tensor([len(rows) for rows in encoded])
        padded = pad_sequence(encoded, batch_first=True)
        return Batch(labels, None, padded, frames if frames.min() < frames.max() else None)
    audio = [item.audio for item in items if item.audio is not None]
    return Batch(labels, pad_windows(audio, cut=all(item.cut for item in items)))


def micro_batches(
    dataset: WindowDataset, indices: list[list[int]], workers: int, pin: bool
) -> Iterator[Batch]:
    """The batches that `indices` name, in order, read ahead by `workers` processes.

    The loader has a generator of its own, so that reading draws nothing from training's.
    """
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_sampler=indices,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_stopping_to_training,
    )
    yield from loader


def _leave_stopping_to_training(worker: int) -> None:
    """A stop is signalled to the whole process group; a loader that died of it would take the
    training process along before its checkpoint is saved.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
