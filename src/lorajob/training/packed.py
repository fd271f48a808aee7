"""A forward pass without padding: all windows one behind the other, in one row of frames.

Windows differ in length. Padding them to the longest wastes work, and each new shape of a batch
costs a card's libraries a new plan. Here a pass is `frames` encoder positions and `tokens` decoder
positions, of whatever windows: only attention has to know where a window ends. The positions left
over belong to fillers, windows of silence without labels. So a training needs few shapes, and each
can be recorded once and played again (graphs.py).
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
from lorajob.whisper.features import DYNAMIC_RANGE, FFT_SAMPLES, HOP_SAMPLES, LOG_FLOOR, LogMel
from lorajob.whisper.window import FRAME_SAMPLES, FRAMES_A_SECOND, WINDOW_SECONDS, encoder_frames

FULL_FRAMES = round(WINDOW_SECONDS * FRAMES_A_SECOND)  # encoder positions of 30 s
FULL_TOKENS = 448  # the decoder's positions
ROUND_TO = 64  # a pass's frames and tokens
SHAPES = 6  # of passes in a training
# The samples of a window, half of an FFT's more at each end, in whole hops.
EDGE_HOPS = -(-FFT_SAMPLES // HOP_SAMPLES)
HOPS_A_FRAME = FRAME_SAMPLES // HOP_SAMPLES


@dataclass(frozen=True, order=True)
class PassShape:
    """Positions of the encoder and of the decoder, and windows, fillers included."""

    frames: int
    tokens: int
    windows: int


@dataclass(frozen=True)
class PassSize:
    """What a pass's windows need: the sums of their frames and tokens, and their number."""

    frames: int
    tokens: int
    windows: int

    def fillers(self, shape: PassShape) -> int:
        """Windows that fill the rest of the shape, each of at most 30 s and 448 tokens."""
        frames, tokens = shape.frames - self.frames, shape.tokens - self.tokens
        return max(1, -(-frames // FULL_FRAMES), -(-tokens // FULL_TOKENS))

    def fits(self, shape: PassShape) -> bool:
        """Each filler needs a position of both kinds."""
        fillers = self.fillers(shape)
        return (
            self.frames + fillers <= shape.frames
            and self.tokens + fillers <= shape.tokens
            and self.windows + fillers <= shape.windows
        )


def choose_shapes(sizes: Sequence[PassSize]) -> list[PassShape]:
    """At most SHAPES shapes, in ascending order, so that each of `sizes` fits one and little is
    filled: each is made for as many of them.
    """
    ordered = sorted(sizes, key=lambda it: it.frames)
    count = min(SHAPES, len(ordered))
    shapes: list[PassShape] = []
    for number in range(count):
        group = ordered[number * len(ordered) // count : (number + 1) * len(ordered) // count]
        # lengths are known to a frame and a token or two: what does not fit takes the next shape
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
    """The smallest of `shapes` that takes a pass; one of its own if none does."""
    for shape in shapes:
        if size.fits(shape):
            return shape
    fillers = 2 + (size.frames + size.tokens) // FULL_TOKENS
    return PassShape(
        _round_up(size.frames + fillers), _round_up(size.tokens + fillers), size.windows + fillers
    )


@dataclass(frozen=True)
class PackedBatch:
    """A pass of one shape; int64 where nothing is said.

    audio [samples] float32, windows behind each other with reflected edges; `hops` [2 frames] are
    the places in it, in hops, where the FFT's windows begin, `owner` [2 frames] the window of each.
    `heard` is what a frozen encoder made of the audio, [frames, width], instead of these.
    inputs, places and labels [tokens] are the decoder's: token before, position, token to say.
    heard_ends and said_ends [windows + 1] int32: where each window's positions end.
    `label_count` labels are no filler.
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

    def tensors(self) -> dict[str, Tensor]:
        """By name, those that there are."""
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
    """Makes a pass of windows, for a decoder that starts with `start` and pads with `pad`."""

    shapes: Sequence[PassShape]
    start: int
    pad: int

    def __call__(self, items: list[Item]) -> PackedBatch:
        frames = [_frames(item) for item in items]
        said = [len(item.labels) for item in items]
        size = PassSize(sum(frames), sum(said), len(items))
        shape = pass_shape(size, self.shapes)
        more_frames, more_said = _filler_lengths(size, shape)
        all_frames, all_said = [*frames, *more_frames], [*said, *more_said]
        labels = [label for item in items for label in item.labels]
        inputs = [it for item in items for it in (self.start, *item.labels[:-1])]
        rest = shape.tokens - len(labels)
        audio: dict[str, Tensor] = {}
        if items[0].encoded is None:
            audio = _pack_audio(items, all_frames, shape)
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
            label_count=len(labels),
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
    """0, 1, 2 ... of each length, behind each other."""
    return torch.cat([torch.arange(length) for length in lengths])


def _ends(lengths: Sequence[int], windows: int) -> Tensor:
    """Cumulative sums from 0; windows that are not there end where the last does."""
    sums = np.cumsum([0, *lengths, *[0] * (windows - len(lengths))])
    return torch.from_numpy(sums.astype(np.int32))


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
    unused = shape.windows - len(frames)  # so that each pass of a shape has as many samples
    blocks.append(np.zeros(unused * EDGE_HOPS * HOP_SAMPLES, np.float32))
    return {
        "audio": torch.from_numpy(np.concatenate(blocks)),
        "hops": torch.from_numpy(np.concatenate(hops)),
        "owner": torch.from_numpy(np.concatenate(owners)),
    }


@torch.no_grad()
def packed_log_mel(log_mel: LogMel, batch: PackedBatch) -> Tensor:
    """float32 [2 frames, mel_bins]: of each window what `LogMel` makes of it alone."""
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
    """The encoder's frozen front: [2 frames, mel_bins] -> [frames, width], with its positions.

    `places` [frames] are the positions in the windows. The convolutions, three wide, are products
    with three rows beside each other; a window's first row has zeros before it, its last behind it.
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
    """[n, in] three times -> [n, out]."""
    weight = convolution.weight.permute(0, 2, 1).flatten(1)  # [out, 3 x in]
    return functional.linear(torch.cat(rows, dim=1), weight, convolution.bias)


def run_layers(layers: nn.ModuleList, hidden: Tensor, heard: Tensor | None = None) -> Tensor:
    """The layers of an encoder, or with `heard` of a decoder: [1, positions, width], likewise."""
    for layer in layers:
        given = layer(hidden, None) if heard is None else _decoder_layer(layer, hidden, heard)
        hidden = given[0] if isinstance(given, tuple) else given  # a tuple in transformers 5.0
    return hidden


def _decoder_layer(layer: Any, hidden: Tensor, heard: Tensor) -> Any:
    return layer(hidden, encoder_hidden_states=heard, use_cache=False)
