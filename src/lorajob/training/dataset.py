"""Makes the model's input from windows: padded audio, and labels with or without timestamps."""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from lorajob.errors import LorajobError
from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec, TrainConfig
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.effects import change_speed
from lorajob.speech.noise import NOISE_KINDS, noise, room_tone, speech_span
from lorajob.training.augmentation import (
    NOTHING_HIDDEN,
    Alterer,
    Masks,
    alter_plan,
    digest_files,
    uses_augmentation,
)
from lorajob.training.encoder_cache import EncodedClips
from lorajob.training.held_back import HeldBack, TrialPlan, hold_back, plan_points
from lorajob.training.packing import (
    USUAL_CLIPS,
    ClipSizes,
    Window,
    clips_a_step,
    digest_plan,
    is_encoded,
    plan_run,
)
from lorajob.whisper.features import pad_windows
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import HOP_SAMPLES, WINDOW_SECONDS

IGNORED = -100  # cross-entropy's ignore_index
PREFETCHED = 4  # batches that each loader process reads ahead
# Lengths of cut windows and labels are rounded up to multiples of these, so that passes have few
# shapes: a CPU's library compiles each product of matrices for its shape (bench/RESULTS.md).
FRAMES_TO, LABELS_TO = 16, 8

log = logging.getLogger(__name__)


B = TypeVar("B")


@dataclass(frozen=True)
class Course:
    """The input of a training: the clips, and the windows of each optimizer step."""

    store: ClipStore
    sizes: ClipSizes
    config: TrainConfig  # with `batch_clips` set
    plan: list[list[Window]]
    digest: str  # of the plan, the validation and the adapter that it starts from
    held: HeldBack = field(default_factory=HeldBack)
    trial: TrialPlan | None = None  # then `held` is that of its first part

    @property
    def scheduled(self) -> int:
        """The steps over which the learning rate falls to 0."""
        return self.trial.plain if self.trial else len(self.plan)


def lay_out(spec: JobSpec, job: JobDir, most_clips: int = USUAL_CLIPS) -> Course:
    """The course of a preprocessed job.

    A step has at most `most_clips` clips, unless the spec sets the number.
    """
    store = ClipStore(job.stage_dir("preprocess") / "train")
    held = hold_back(store, spec.train, spec.seed, spec.language)
    sizes = ClipSizes(store.seconds.tolist(), store.tokens.tolist(), store.speakers, held)
    trained = len(store) - len(held)
    clips = clips_a_step(spec.train, trained, most_clips)
    config = spec.train.model_copy(update={"batch_clips": clips})
    plan = plan_run(sizes, config, spec.seed)
    validation = HeldBack(held, plan_points(len(held), trained, config.epochs, len(plan)))
    plan, trial = _augmented(spec, plan, sizes, len(held))
    digest = digest_plan(plan, sizes)
    if held:
        digest += "/" + validation.digest
    if spec.start.adapter_sha256 is not None:
        digest += "/" + spec.start.adapter_sha256
    if uses_augmentation(spec, len(held)):
        digest += "/" + digest_files(spec.augment)
    return Course(store, sizes, config, plan, digest, validation, trial)


def _augmented(
    spec: JobSpec, plan: list[list[Window]], sizes: ClipSizes, held_back: int
) -> tuple[list[list[Window]], TrialPlan | None]:
    """The plan with augmentation, as the spec says, and its trial."""
    config = spec.augment
    if not uses_augmentation(spec, held_back):
        if config.use == "auto":
            log.info(
                "augmentation stays off: no clips are held back that could decide on it; "
                "augment.use=always trains with it all the same"
            )
        return plan, None
    if config.use == "always":
        return alter_plan(plan, sizes, config, spec.seed), None
    begins = len(plan) - max(1, round(config.trial_share * len(plan)))
    again = alter_plan(plan[begins:], sizes, config, spec.seed)
    log.info(
        "augmentation is on trial: steps %d to %d are taken twice, without and with it",
        begins + 1,
        len(plan),
    )
    return plan + again, TrialPlan(begins, len(plan))


@dataclass(frozen=True)
class PaddedBatch:
    """Labels of some windows, and their audio or their encoder outputs.

    - `labels`: int64 [windows, tokens], padded with -100. `WhisperLoss.decoder_input` makes the
      decoder's input from them.
    - `counted`: int64 [labels], the places of the labels that count in the loss, row after row:
      text, timestamps and end, without prompt and padding. A mask on the device would give the
      same, but the program would have to wait for the device.
    - `audio`: float32 [windows, samples].
    - `encoded`: encoder outputs [windows, frames, width].
    - `frames`: int64 [windows], the frames of each window in `encoded` without padding; None if
      there is no padding.
    - `kept_frames`, `kept_bins`: float32 [windows, 2 x frames] and [windows, mel_bins], 0 for the
      parts of the log-mel features that are hidden; None if nothing is.
    """

    labels: Tensor
    counted: Tensor
    audio: Tensor | None = None
    encoded: Tensor | None = None
    frames: Tensor | None = None
    kept_frames: Tensor | None = None
    kept_bins: Tensor | None = None

    @property
    def label_count(self) -> int:
        """Number of labels that count in the loss."""
        return len(self.counted)

    def pin_memory(self) -> "PaddedBatch":
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "PaddedBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PaddedBatch":
        there = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return PaddedBatch(**{name: change(tensor) for name, tensor in there.items()})


@dataclass(frozen=True)
class Item:
    """One window: its labels, and its samples [-1, 1] at 16 kHz or its encoder outputs.

    If it is `cut`, the window may end behind the samples. `encoded` is [frames, width]; then
    `audio` is None. The first `prompt` labels do not count in the loss. `masks` are of the log-mel
    features.
    """

    labels: list[int]
    audio: NDArray[np.float32] | None
    cut: bool
    encoded: Tensor | None = None
    prompt: int = 0
    masks: Masks = NOTHING_HIDDEN

    @property
    def counted(self) -> int:
        """Number of labels that count in the loss."""
        return len(self.labels) - self.prompt


class WindowDataset(Dataset[Item]):
    """Maps a window of the plan to its labels, and its audio or its stored encoder outputs."""

    def __init__(
        self,
        store: ClipStore,
        labels: Labels,
        windows: Sequence[Window],
        alterer: Alterer | None = None,
    ) -> None:
        self.store = store
        self.labels = labels
        self.windows = windows
        self.alterer = alterer
        self.encoded = EncodedClips()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Item:
        window = self.windows[index]
        prompt = self.labels.prompt_labels(window.timestamps)
        if is_encoded(window, self.encoded):
            labels = self.label_ids(index)
            return Item(labels, None, True, self.encoded[window.clips[0]], prompt)
        rng = np.random.default_rng(window.seed)
        clips = [self.store.audio(clip) for clip in window.clips]
        if window.speeds:
            clips = list(map(change_speed, clips, window.speeds))
        spans = None
        if window.jitter:
            spans = [_draw_borders(clip, rng) for clip in clips]
        labels = self.label_ids(index, spans)
        masks = NOTHING_HIDDEN
        if window.altered is not None and self.alterer is not None:
            own = np.random.default_rng(window.altered)
            clips = [self.alterer.sound(clip, own) for clip in clips]
            masks = self.alterer.masks(sum(map(len, clips)) / SAMPLE_RATE, own)
        sound = join_sounds(window, clips, rng)
        return Item(labels, sound, window.cut, prompt=prompt, masks=masks)

    def count_labels(self, index: int) -> int:
        """Number of labels of a window that count in the loss. Does not read its audio."""
        prompt = self.labels.prompt_labels(self.windows[index].timestamps)
        return len(self.label_ids(index)) - prompt

    def label_ids(
        self, index: int, spans: Sequence[tuple[float, float]] | None = None
    ) -> list[int]:
        """The labels of a window. Does not read its audio.

        `spans` are the timestamps of each clip, in seconds of the clip. None: they stand at its
        borders.
        """
        window = self.windows[index]
        pieces = []
        position = 0.0
        for number, clip in enumerate(window.clips):
            seconds = window.seconds(number, float(self.store.seconds[clip]))
            start, end = spans[number] if spans else (0.0, seconds)
            end = min(position + end, WINDOW_SECONDS)
            pieces.append((self.store.texts[clip], position + start, end))
            position += seconds + window.pause(number) if number < len(window.clips) - 1 else 0.0
        return self.labels.window(pieces, window.timestamps)


def join_sounds(
    window: Window, clips: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The samples of a window: its clips and the pauses between them, or noise without clips."""
    if not clips:
        kind = NOISE_KINDS[int(rng.integers(len(NOISE_KINDS)))]
        return noise(kind, round(window.no_speech * SAMPLE_RATE), rng)
    parts = [clips[0]]
    for number, clip in enumerate(clips[1:]):
        count = round(window.pause(number) * SAMPLE_RATE)
        tone = room_tone(clips[number], count, rng) if window.pauses else np.zeros(count)
        parts += [tone.astype(np.float32), clip]
    return np.concatenate(parts)


def _draw_borders(clip: NDArray[np.float32], rng: np.random.Generator) -> tuple[float, float]:
    """A start and an end, in seconds: each between a border of the clip and its speech."""
    first, last = speech_span(clip)
    return rng.uniform(0.0, first), rng.uniform(last, len(clip) / SAMPLE_RATE)


def collate(items: list[Item]) -> PaddedBatch:
    """Make a batch of items that all have audio or all have encoder outputs.

    Labels and encoder outputs are padded to the longest. Audio is padded to 30 s or, if all windows
    are cut, to the longest and half a second. The lengths of labels and cut windows are rounded up.
    """
    longest = LABELS_TO * -(-max(len(item.labels) for item in items) // LABELS_TO)
    labels = torch.full((len(items), longest), IGNORED)
    for row, item in zip(labels, items, strict=True):
        row[: len(item.labels)] = torch.tensor(item.labels)
    rows = [
        torch.arange(number * longest + item.prompt, number * longest + len(item.labels))
        for number, item in enumerate(items)
    ]
    counted = torch.cat(rows)
    encoded = [item.encoded for item in items if item.encoded is not None]
    if encoded:
        frames = torch.tensor([len(rows) for rows in encoded])
        padded = pad_sequence(encoded, batch_first=True)
        return PaddedBatch(
            labels, counted, None, padded, frames if frames.min() < frames.max() else None
        )
    audio = [item.audio for item in items if item.audio is not None]
    padded = pad_windows(audio, all(item.cut for item in items), FRAMES_TO)
    return PaddedBatch(labels, counted, padded, None, None, *_kept(items, padded.shape[1]))


def _kept(items: list[Item], samples: int) -> tuple[Tensor | None, Tensor | None]:
    """`kept_frames` and `kept_bins` of a batch."""
    bins = max(item.masks.mel_bins for item in items)
    if not bins:
        return None, None
    kept = [item.masks.kept(samples // HOP_SAMPLES, bins) for item in items]
    rows, columns = (torch.from_numpy(np.stack(each)) for each in zip(*kept, strict=True))
    return rows, columns


def micro_batches(
    dataset: WindowDataset,
    indices: list[list[int]],
    collate: Callable[[list[Item]], B],
    workers: int,
    pin: bool,
) -> Iterator[B]:
    """Yield the batches of `indices`, made by `collate`, in order. `workers` processes read ahead.

    The loader has its own random generator, so that reading does not change that of the training.
    Raises the LorajobErrors of the clips and of the sounds for augmentation.
    """
    loader: DataLoader[Item] = DataLoader(
        dataset,
        batch_sampler=indices,
        collate_fn=collate,
        prefetch_factor=PREFETCHED if workers else None,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_leave_stopping_to_training,
    )
    try:
        yield from loader
    except LorajobError as error:
        # A loader process sends its traceback as the message. The last line is that of the error.
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


def _leave_stopping_to_training(worker: int) -> None:
    """Ignore the signals to stop in a loader process.

    A stop is signalled to the whole process group. If a loader ended, the training process would
    fail before it saved its checkpoint.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
