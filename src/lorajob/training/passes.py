"""The forward passes of each optimizer step: their windows and their batches."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from lorajob.training.dataset import (
    Course,
    Item,
    PaddedBatch,
    WindowDataset,
    collate,
    micro_batches,
)
from lorajob.training.device import loader_workers
from lorajob.training.packed import (
    PackedBatch,
    Packer,
    PassShape,
    PassSize,
    choose_shapes,
    pass_shape,
)
from lorajob.training.packing import (
    group_batches,
    group_packed,
    is_encoded,
    pass_seconds,
    window_size,
)
from lorajob.training.reading import ReadAhead
from lorajob.training.shares import share_step
from lorajob.training.trainer import Run

# The fixed cost of a forward and backward pass, in seconds of audio. bench/passes.py measures it on
# a CPU. On a GPU it is a guess, chosen so that passes are as full as memory allows.
PASS_SECONDS = {"cpu": 1.0, "cuda": 30.0}

log = logging.getLogger(__name__)


class Passes:
    """The windows of a training, and how this process computes its share of each step.

    `steps` are ranges of indices of `windows`. The passes of a step depend on the run's
    micro-batch, so they change when memory runs out.
    """

    def __init__(self, run: Run, course: Course, dataset: WindowDataset) -> None:
        self.run = run
        self.sizes = course.sizes
        self.dataset = dataset
        self.windows = dataset.windows
        ends = list(accumulate(map(len, course.plan)))
        self.steps = [
            range(end - len(step), end) for end, step in zip(ends, course.plan, strict=True)
        ]

    def of(self, step: range) -> list[list[int]]:
        """This process's forward passes of a step, each a list of indices of windows."""
        accelerator, micro_batch = self.run.accelerator, self.run.micro_batch
        mine: Sequence[int] = step
        if accelerator.num_processes > 1:
            costs = [self.seconds([index]) for index in step]
            share = share_step(costs, accelerator.num_processes)[accelerator.process_index]
            mine = [step[place] for place in share]
        encoded = self.dataset.encoded
        if self.run.packs:
            return group_packed(mine, self.windows, self.sizes, micro_batch, encoded)
        overhead = PASS_SECONDS[accelerator.device.type]
        return group_batches(mine, self.windows, self.sizes, micro_batch, overhead, encoded)

    def left(self) -> list[list[list[int]]]:
        """The passes of each remaining step."""
        return [self.of(step) for step in self.steps[self.run.step :]]

    def seconds(self, batch: Sequence[int]) -> float:
        """The cost of a pass, in seconds of audio."""
        encoded = self.dataset.encoded
        if self.run.packs:  # nothing is padded
            return sum(pass_seconds([it], self.windows, self.sizes, encoded) for it in batch)
        return pass_seconds(batch, self.windows, self.sizes, encoded)

    def is_encoded(self, batch: Sequence[int]) -> bool:
        """Whether a pass takes stored encoder outputs in place of audio."""
        return is_encoded(self.windows[batch[0]], self.dataset.encoded)

    def fullest_window(self) -> int:
        """The index of the window that costs most."""
        return max(range(len(self.windows)), key=lambda index: self.seconds([index]))

    def collate(self) -> Callable[[list[Item]], PaddedBatch | PackedBatch]:
        """The function that makes a batch of a pass's items. Packed passes have few shapes."""
        if not self.run.packs:
            return collate
        shapes = choose_shapes(
            [self._size(batch) for step in self.steps for batch in self.of(step)]
        )
        log.info("shapes of passes: %s", ", ".join(map(str, shapes)))
        config = self.run.loss.whisper.config
        alterer = self.dataset.alterer
        bins = alterer.mel_bins if alterer is not None and alterer.config.masks else 0
        return Packer(shapes, config.decoder_start_token_id, config.pad_token_id, bins)

    def shape(self, batch: Sequence[int], shapes: Sequence[PassShape]) -> PassShape:
        """The one of `shapes` that a packed pass takes, by the estimate of its lengths."""
        return pass_shape(self._size(batch), shapes)

    def _size(self, batch: Sequence[int]) -> PassSize:
        needs = [window_size(self.windows[index], self.sizes) for index in batch]
        return PassSize(sum(it[0] for it in needs), sum(it[1] for it in needs), len(needs))

    def batches(self) -> Iterator[list[PaddedBatch | PackedBatch]]:
        """Yield the batches of each remaining step. They are read ahead."""
        accelerator = self.run.accelerator
        wanted = self.run.config.loader_workers
        steps = self.left()
        stream = micro_batches(
            self.dataset,
            [batch for step in steps for batch in step],
            self.collate(),
            loader_workers(wanted, accelerator.device, accelerator.num_processes),
            pin=accelerator.device.type == "cuda",
        )
        ahead = ReadAhead(
            self.dataset.store,
            self.windows,
            self.steps[self.run.step].start if steps else 0,
            self._buffer_windows(),
            self.dataset.encoded,
        )
        try:
            for step, batches in zip(self.steps[self.run.step :], steps, strict=True):
                ready = [next(stream) for _ in batches]
                # The processes of a machine share its file cache.
                if accelerator.is_local_main_process:
                    ahead.reach(step.start)
                yield ready
        finally:
            ahead.close()

    def _buffer_windows(self) -> int:
        """How many windows have as much audio as is shuffled together."""
        config = self.run.config
        heard = config.epochs * sum(self.sizes.seconds)
        return math.ceil(
            len(self.windows) * min(1.0, 3600 * config.shuffle_hours / max(heard, 1.0))
        )

    def count_labels(self, step: range, ready: Sequence[PaddedBatch | PackedBatch]) -> int:
        """Labels of the whole step that count in the loss.

        With several processes, `ready` is only a share of the step.
        """
        if self.run.accelerator.num_processes == 1:
            return sum(batch.label_count for batch in ready)
        return sum(self.dataset.count_labels(index) for index in step)

    def count_clips(self, step: range) -> int:
        return sum(len(self.windows[index].clips) for index in step)
