"""A forward pass without padding: all windows are joined in one row of frames.

Windows differ in length. Padding them to the longest wastes work, and for each new shape of a batch
a GPU's libraries make a new plan. Here a pass has `frames` encoder positions and `tokens` decoder
positions, for any windows. Only attention has to know where a window ends. Unused positions belong
to fillers: windows of silence without labels. So a training needs few shapes, and each can be
recorded once and replayed (graphs.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lorajob.training.dataset import IGNORED, Item
from lorajob.whisper.features import DYNAMIC_RANGE, FFT_SAMPLES, LOG_FLOOR, LogMel
from lorajob.whisper.window import (
    FRAME_SAMPLES,
    FRAMES_A_SECOND,
    HOP_SAMPLES,
    WINDOW_SECONDS,
    encoder_frames,
)

FULL_FRAMES = round(WINDOW_SECONDS * FRAMES_A_SECOND)  # encoder positions of 30 s
FULL_TOKENS = 448  # decoder positions
ROUND_TO = 64  # frames and tokens of a pass are multiples of it
SHAPES = 6  # most shapes of passes in a training
# Hops that a window takes beyond its samples, for half an FFT at each end, rounded up.
EDGE_HOPS = -(-FFT_SAMPLES // HOP_SAMPLES)
HOPS_A_FRAME = FRAME_SAMPLES // HOP_SAMPLES


@dataclass(frozen=True, order=True)
class PassShape:
    """Encoder positions, decoder positions and windows of a pass, including fillers."""

    frames: int
    tokens: int
    windows: int


@dataclass(frozen=True)
class PassSize:
    """Needs of a pass's windows: the sums of their frames and tokens, and their number."""

    frames: int
    tokens: int
    windows: int

    def fillers(self, shape: PassShape) -> int:
        """Number of fillers for the rest of the shape, each of at most 30 s and 448 tokens."""
        frames, tokens = shape.frames - self.frames, shape.tokens - self.tokens
        return max(1, -(-frames // FULL_FRAMES), -(-tokens // FULL_TOKENS))

    def fits(self, shape: PassShape) -> bool:
        """Whether the windows fit. Each filler needs at least one position of both kinds."""
        fillers = self.fillers(shape)
        return (
            self.frames + fillers <= shape.frames
            and self.tokens + fillers <= shape.tokens
            and self.windows + fillers <= shape.windows
        )


def choose_shapes(sizes: Sequence[PassSize]) -> list[PassShape]:
    """Choose at most SHAPES shapes, in ascending order, so that each of `sizes` fits one.

    Each shape is made for an equal share of the sizes, so that few positions are filled.
    """
    ordered = sorted(sizes, key=lambda it: it.frames)
    count = min(SHAPES, len(ordered))
    shapes: list[PassShape] = []
    for number in range(count):
        group = ordered[number * len(ordered) // count : (number + 1) * len(ordered) // count]
        # Lengths may be off by a frame and a token or two. A pass that does not fit takes the next
        # larger shape, so only the largest shape gets spare positions.
        spare = 1.02 if number == count - 1 else 1.0
        shape = PassShape(
            _round_up(round(spare * max(it.frames for it in group)) + 8),
            _round_up(round(spare * max(it.tokens for it in group)) + 16),
            0,
        )
        windows = max(it.windows + it.fillers(shape) for it in group)
        shapes.append(PassShape(shape.frames, shape.tokens, windows))
    return sorted(set(shapes))


def _round_up(count: int) -> int:
    return ROUND_TO * -(-count // ROUND_TO)


def pass_shape(size: PassSize, shapes: Sequence[PassShape]) -> PassShape:
    """The smallest of `shapes` that a pass fits, or a new shape if it fits none."""
    for shape in shapes:
        if size.fits(shape):
            return shape
    fillers = 2 + (size.frames + size.tokens) // FULL_TOKENS
    return PassShape(
        _round_up(size.frames + fillers), _round_up(size.tokens + fillers), size.windows + fillers
    )


@dataclass(frozen=True)
class PackedBatch:
    """A pass of one shape. Tensors are int64 if nothing else is said.

    - `audio`: float32 [samples], the joined windows with reflected edges.
    - `hops`: [2 frames], where in `audio` each window of the FFT begins, in hops.
    - `owner`: [2 frames], the window that each of these belongs to.
    - `kept_frames`, `kept_bins`: float32 [2 frames] and [windows, mel_bins], 0 for the parts of the
      log-mel features that are hidden; None in a training that hides nothing.
    - `heard`: outputs of a frozen encoder [frames, width]; then the three above are None.
    - `inputs`, `places`, `labels`: [tokens], the decoder's previous token, position and target.
      Targets that do not count, of prompts and fillers, are -100.
    - `heard_places`: [frames], the encoder position of each frame in its window.
    - `heard_ends`, `said_ends`: int32 [windows + 1], where each window's positions end.
    - `label_count`: number of labels that count in the loss.
    """

    shape: PassShape
    inputs: Tensor
    places: Tensor
    labels: Tensor
    heard_places: Tensor
    heard_ends: Tensor
    said_ends: Tensor
    label_count: int
    audio: Tensor | None = None
    hops: Tensor | None = None
    owner: Tensor | None = None
    heard: Tensor | None = None
    kept_frames: Tensor | None = None
    kept_bins: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, without those that are None."""
        return {name: it for name, it in vars(self).items() if isinstance(it, Tensor)}

    def pin_memory(self) -> "PackedBatch":
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> "PackedBatch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PackedBatch":
        changed: Any = {name: change(it) for name, it in self.tensors().items()}
        return replace(self, **changed)


@dataclass(frozen=True)
class Packer:
    """Makes a pass of windows. The decoder's start token is `start`, its padding token `pad`.

    `mel_bins` is 0 in a training that hides no parts of the features.
    """

    shapes: Sequence[PassShape]
    start: int
    pad: int
    mel_bins: int = 0

    def __call__(self, items: list[Item]) -> PackedBatch:
        frames = [_frames(item) for item in items]
        said = [len(item.labels) for item in items]
        size = PassSize(sum(frames), sum(said), len(items))
        shape = pass_shape(size, self.shapes)
        more_frames, more_said = _filler_lengths(size, shape)
        all_frames, all_said = [*frames, *more_frames], [*said, *more_said]
        labels = [
            label
            for item in items
            for label in (*[IGNORED] * item.prompt, *item.labels[item.prompt :])
        ]
        inputs = [it for item in items for it in (self.start, *item.labels[:-1])]
        rest = shape.tokens - len(labels)
        audio: dict[str, Tensor] = {}
        if items[0].encoded is None:
            audio = _pack_audio(items, all_frames, shape)
            if self.mel_bins:
                audio |= _kept(items, all_frames, shape, self.mel_bins)
        else:
            rows = [item.encoded for item in items if item.encoded is not None]
            width = rows[0].shape[1]
            filler = torch.zeros(shape.frames - size.frames, width, dtype=rows[0].dtype)
            audio = {"heard": torch.cat([*rows, filler])}
        return PackedBatch(
            shape,
            inputs=torch.tensor(inputs + [self.pad] * rest),
            places=_positions(all_said),
            labels=torch.tensor(labels + [IGNORED] * rest),
            heard_places=_positions(all_frames),
            heard_ends=_ends(all_frames, shape.windows),
            said_ends=_ends(all_said, shape.windows),
            label_count=sum(item.counted for item in items),
            **audio,
        )


def _frames(item: Item) -> int:
    if item.encoded is not None:
        return len(item.encoded)
    if item.audio is None or not item.cut:
        return FULL_FRAMES
    return encoder_frames(len(item.audio))


def _filler_lengths(size: PassSize, shape: PassShape) -> tuple[list[int], list[int]]:
    count = size.fillers(shape)
    return _shares(shape.frames - size.frames, count), _shares(shape.tokens - size.tokens, count)


def _shares(total: int, count: int) -> list[int]:
    return [total * (number + 1) // count - total * number // count for number in range(count)]


def _positions(lengths: Sequence[int]) -> Tensor:
    """0, 1, 2 ... for each length, joined."""
    return torch.cat([torch.arange(length) for length in lengths])


def _ends(lengths: Sequence[int], windows: int) -> Tensor:
    """Cumulative sums, from 0. Unused windows end where the last one does."""
    sums = np.cumsum([0, *lengths, *[0] * (windows - len(lengths))])
    return torch.from_numpy(sums.astype(np.int32))


def _kept(
    items: list[Item], frames: Sequence[int], shape: PassShape, mel_bins: int
) -> dict[str, Tensor]:
    kept = [
        item.masks.kept(HOPS_A_FRAME * count, mel_bins)
        for item, count in zip(items, frames, strict=False)
    ]
    rows = np.ones(HOPS_A_FRAME * shape.frames, np.float32)
    joined = np.concatenate([own for own, _ in kept])
    rows[: len(joined)] = joined
    columns = np.ones((shape.windows, mel_bins), np.float32)
    columns[: len(kept)] = [own for _, own in kept]
    return {"kept_frames": torch.from_numpy(rows), "kept_bins": torch.from_numpy(columns)}


def _pack_audio(items: list[Item], frames: Sequence[int], shape: PassShape) -> dict[str, Tensor]:
    blocks: list[NDArray[np.float32]] = []
    hops, owners = [], []
    begin = 0
    half = FFT_SAMPLES // 2
    for number, count in enumerate(frames):
        samples = np.zeros(count * FRAME_SAMPLES, np.float32)
        if number < len(items) and (audio := items[number].audio) is not None:
            kept = audio[: len(samples)]
            samples[: len(kept)] = kept
        length = (HOPS_A_FRAME * count + EDGE_HOPS) * HOP_SAMPLES
        block = np.zeros(length, np.float32)
        edged = np.pad(samples, half, mode="reflect")  # as torch.stft does
        block[: len(edged)] = edged
        blocks.append(block)
        hops.append(np.arange(HOPS_A_FRAME * count) + begin)
        owners.append(np.full(HOPS_A_FRAME * count, number))
        begin += length // HOP_SAMPLES
    # All passes of a shape have the same number of samples.
    unused = shape.windows - len(frames)
    blocks.append(np.zeros(unused * EDGE_HOPS * HOP_SAMPLES, np.float32))
    return {
        "audio": torch.from_numpy(np.concatenate(blocks)),
        "hops": torch.from_numpy(np.concatenate(hops)),
        "owner": torch.from_numpy(np.concatenate(owners)),
    }


@torch.no_grad()
def packed_log_mel(log_mel: LogMel, batch: PackedBatch) -> Tensor:
    """Log-mel features, float32 [2 frames, mel_bins], the same as `LogMel` of each window alone."""
    if batch.audio is None or batch.hops is None or batch.owner is None:
        raise ValueError("a batch of encoder outputs has no audio")
    windows = batch.audio.unfold(0, FFT_SAMPLES, HOP_SAMPLES).index_select(0, batch.hops)
    power = torch.fft.rfft(windows * log_mel.hann).abs().square()
    log = torch.clamp(power @ log_mel.filters.T, min=LOG_FLOOR).log10()
    loudest = log.new_full((batch.shape.windows,), -torch.inf)
    loudest = loudest.scatter_reduce(0, batch.owner, log.amax(dim=1), "amax")
    floor = loudest.index_select(0, batch.owner)[:, None] - DYNAMIC_RANGE
    result: Tensor = (torch.maximum(log, floor) + 4.0) / 4.0
    return result


@torch.no_grad()
def packed_convolutions(encoder: Any, features: Tensor, places: Tensor) -> Tensor:
    """The encoder's frozen convolutions and position embeddings.

    Maps [2 frames, mel_bins] to [frames, width]. `places` [frames] are the positions in the
    windows. A convolution of width three is a product with three neighbouring rows. Before the
    first row of a window and behind its last there are zeros.
    """
    first = (places == 0).repeat_interleave(2)
    first[1::2] = False
    last = torch.cat([first[1:], first.new_ones(1)])
    before = features.roll(1, 0).masked_fill(first[:, None], 0)
    behind = features.roll(-1, 0).masked_fill(last[:, None], 0)
    hidden = functional.gelu(_three_wide(encoder.conv1, before, features, behind))
    before = hidden.roll(1, 0).masked_fill(first[:, None], 0)
    hidden = functional.gelu(_three_wide(encoder.conv2, before[::2], hidden[::2], hidden[1::2]))
    result: Tensor = hidden + encoder.embed_positions.weight.index_select(0, places)
    return result


def _three_wide(convolution: nn.Conv1d, *rows: Tensor) -> Tensor:
    """Map three rows [n, in] to [n, out]."""
    weight = convolution.weight.permute(0, 2, 1).flatten(1)  # [out, 3 x in]
    return functional.linear(torch.cat(rows, dim=1), weight, convolution.bias)


def run_layers(layers: nn.ModuleList, hidden: Tensor, heard: Tensor | None = None) -> Tensor:
    """Run the layers of an encoder or, with `heard`, of a decoder.

    `hidden`, `heard` and the result are [1, positions, width].
    """
    for layer in layers:
        given = layer(hidden, None) if heard is None else _decoder_layer(layer, hidden, heard)
        hidden = given[0] if isinstance(given, tuple) else given  # a tuple in transformers 5.0
    return hidden


def _decoder_layer(layer: Any, hidden: Tensor, heard: Tensor) -> Any:
    return layer(hidden, encoder_hidden_states=heard, use_cache=False)
