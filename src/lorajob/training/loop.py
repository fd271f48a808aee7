"""The training loop of one process: its steps, checkpoints, history and progress."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from lorajob.errors import ModelError, StageStopped
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.training.checkpoint import prune, save_checkpoint
from lorajob.training.dataset import (
    Batch,
    Course,
    Item,
    WindowDataset,
    collate,
    lay_out,
    micro_batches,
)
from lorajob.training.device import loader_workers, set_up_cuda
from lorajob.training.encoder_cache import EncodedClips, clips_heard_again, shard_path, write_shard
from lorajob.training.forecast import (
    GIB,
    Forecast,
    Loaded,
    forecast,
    loaded_memory,
    peak_memory,
    pick_micro_batch,
)
from lorajob.training.history import History, Taken
from lorajob.training.packed import PackedBatch, Packer, PassSize, choose_shapes
from lorajob.training.packing import (
    group_batches,
    group_packed,
    is_encoded,
    pass_seconds,
    window_size,
)
from lorajob.training.trainer import Run, start_run
from lorajob.whisper.base_model import local_model
from lorajob.whisper.tokens import Labels

# What a forward and backward pass costs beside its windows, in seconds of audio: on a CPU as
# bench/passes.py tells; on a card a guess, so that passes are as full as micro-batches allow.
PASS_SECONDS = {"cpu": 1.0, "cuda": 30.0}
STEPS_TO_FORECAST = 40  # a shorter run is over before a dry run pays
# Losses stay on the device for so many steps: reading one waits for all that the device has to do.
STEPS_UNREAD = {"cpu": 1, "cuda": 10}
SAVE_SECONDS = {"cpu": 0.0, "cuda": 60.0}  # from one checkpoint to the next, at least

log = logging.getLogger(__name__)


class Unread(NamedTuple):
    """A step that was taken, its loss a token still on the device."""

    loss: Tensor
    rate: float
    tokens: int
    clips: int
    waited: float  # seconds, for its batches


class Loop:
    """Steps, checkpoints, history and progress of one attempt; the latter two are rank 0's."""

    history: History | None = None
    checkpoints: Path
    foretold: Forecast | None = None
    read_at: float = 0.0  # monotonic seconds, when losses were read
    saved_at: float = 0.0  # likewise, when a checkpoint was saved
    first: int = 1

    def __init__(self, run: Run, report: Report, course: Course) -> None:
        plan = course.plan
        self.config = run.config
        self.run = run
        self.report = report
        self.sizes = course.sizes
        self.digest = course.digest
        self.encoded = EncodedClips()
        self.windows = [window for step in plan for window in step]
        ends = list(accumulate(map(len, plan)))
        self.steps = [range(end - len(step), end) for end, step in zip(ends, plan, strict=True)]
        self.total = len(plan)
        self.saved = run.step
        self.unread: list[Unread] = []
        kind = run.accelerator.device.type
        wanted = run.config.save_seconds
        self.save_seconds = SAVE_SECONDS[kind] if wanted is None else wanted
        self.steps_unread = STEPS_UNREAD[kind]
        run.stop_asked = lambda: report.stop_requested

    def train(self, dataset: WindowDataset, scratch: Path | None) -> None:
        """Take all steps that are left; rank 0 has a folder for what is only needed meanwhile."""
        loaded = loaded_memory()
        self._pick_micro_batch(dataset)
        if self.config.decoder_only:
            self._encode_once(dataset, scratch)
        self._look_ahead(dataset, loaded)
        batches = self._batches(dataset)
        self.first = self.run.step + 1  # its loss is read at once, as a sign of life
        began = self.read_at = self.saved_at = time.monotonic()
        if self.history is not None:
            self.history.begin(began)
        while self.run.step < self.total:
            step = self.steps[self.run.step]
            asked = time.monotonic()
            ready = next(batches)
            waited = time.monotonic() - asked
            tokens = self._count_labels(dataset, step, ready)
            try:
                loss = self.run.take_step(ready, tokens)
            except torch.OutOfMemoryError as error:
                self.run.use_less_memory(len(step), error)
                batches = self._batches(dataset)
                continue
            clips = sum(len(self.windows[index].clips) for index in step)
            self.unread.append(Unread(loss, self.run.rate, tokens, clips, waited))
            saving = self._save_is_due() or self.run.step == self.total
            if saving or self.run.step == self.first or len(self.unread) >= self.steps_unread:
                self._read_losses()
            if self.run.stopping:
                self._read_losses()
                self._save()
                raise StageStopped(f"stopped at step {self.run.step}; its checkpoint is kept")
            if saving and self.run.step < self.total:
                self._save()
        self._look_back(time.monotonic() - began)

    def _cost(self, batch: list[int]) -> float:
        if self.run.packs:  # nothing is padded
            return sum(pass_seconds([it], self.windows, self.sizes, self.encoded) for it in batch)
        return pass_seconds(batch, self.windows, self.sizes, self.encoded)

    def _pick_micro_batch(self, dataset: WindowDataset) -> None:
        """By a full window, where the choice is left to us."""
        if self.config.micro_batch is not None or self.run.step > 0:
            return
        fullest = max(range(len(self.windows)), key=lambda index: self._cost([index]))
        item = replace(dataset[fullest], cut=False)
        try:
            self.run.micro_batch = pick_micro_batch(self.run, collate([item]))
        except torch.OutOfMemoryError as error:
            if self.run.accelerator.num_processes == 1:  # else the first step tells, in all
                self.run.use_less_memory(1, error)

    def _encode_once(self, dataset: WindowDataset, scratch: Path | None) -> None:
        """Have the encoder, which does not change, hear the clips that come again."""
        accelerator = self.run.accelerator
        shards = clips_heard_again(
            *(self.windows, self.sizes.seconds, self.run.frame_bytes),
            self.config.encoder_outputs_gb * 1e9,
        )
        (place,) = broadcast_object_list([scratch])  # of rank 0
        clips = encoded = 0

        def done(more: int) -> None:
            nonlocal encoded
            encoded += more
            fields = {"checkpoint": self.saved, "encoded": encoded, "to_encode": clips}
            self.report.progress(self.run.step, self.total, **fields)
            if self.history is not None:
                self.report.check_stop()

        mine = range(len(shards))[accelerator.process_index :: accelerator.num_processes]
        clips = sum(len(shards[number]) for number in mine)
        for number in mine:
            path = shard_path(place, number)
            write_shard(path, shards[number], dataset.store, self.run.encode, done)
        accelerator.wait_for_everyone()
        self.encoded = dataset.encoded = EncodedClips(place, shards)

    def _look_ahead(self, dataset: WindowDataset, loaded: Loaded) -> None:
        """Foretell what a long run will take."""

        def load(batch: list[int]) -> Batch | PackedBatch:
            return together([dataset[index] for index in batch])

        steps = self.steps[self.run.step :]
        alone = self.run.accelerator.num_processes == 1
        if self.history is None or not alone or len(steps) < STEPS_TO_FORECAST:
            return
        while True:
            together = self._collate()
            passes = [batch for step in steps for batch in self._passes(step)]
            kinds: tuple[list[list[int]], list[list[int]]] = ([], [])
            for batch in passes:
                kinds[is_encoded(self.windows[batch[0]], self.encoded)].append(batch)
            try:
                ahead = forecast(
                    *(self.run, kinds, self._cost, load, len(steps), loaded),
                    mapped=self.encoded.bytes,
                )
                break
            except torch.OutOfMemoryError as error:
                self.run.use_less_memory(self.run.micro_batch, error)
        self.foretold = ahead
        write_json(self.history.path.with_name("forecast.json"), ahead.as_dict())
        log.info(
            "%d steps of about %.2f s: %.0f s; %.2f GiB at most",
            *(ahead.steps, ahead.seconds_a_step, ahead.eta_seconds, ahead.peak_memory_bytes / GIB),
        )

    def _look_back(self, seconds: float) -> None:
        """Put what it took beside what was foretold, and say both."""
        if self.foretold is None or self.history is None:
            return
        took = {"seconds": round(seconds, 1), "peak_memory_bytes": peak_memory()}
        values = self.foretold.as_dict() | {"measured": took}
        write_json(self.history.path.with_name("forecast.json"), values)
        log.info(
            "%.0f s where %.0f were foretold, %.2f GiB where %.2f were",
            *(seconds, self.foretold.eta_seconds, took["peak_memory_bytes"] / GIB),
            self.foretold.peak_memory_bytes / GIB,
        )

    def _passes(self, step: range) -> list[list[int]]:
        """This process's forward passes of a step."""
        accelerator = self.run.accelerator
        mine = step[accelerator.process_index :: accelerator.num_processes]
        if self.run.packs:
            micro_batch = self.run.micro_batch
            return group_packed(mine, self.windows, self.sizes, micro_batch, self.encoded)
        overhead = PASS_SECONDS[accelerator.device.type]
        return group_batches(
            *(mine, self.windows, self.sizes, self.run.micro_batch, overhead, self.encoded)
        )

    def _collate(self) -> Callable[[list[Item]], Batch | PackedBatch]:
        """What makes a batch of a pass's windows; packed passes of a training have few shapes."""
        if not self.run.packs:
            return collate
        sizes = [self._pass_size(batch) for step in self.steps for batch in self._passes(step)]
        config = self.run.loss.whisper.config
        shapes = choose_shapes(sizes)
        log.info("shapes of passes: %s", ", ".join(map(str, shapes)))
        return Packer(shapes, config.decoder_start_token_id, config.pad_token_id)

    def _pass_size(self, batch: list[int]) -> PassSize:
        needs = [window_size(self.windows[index], self.sizes) for index in batch]
        return PassSize(sum(it[0] for it in needs), sum(it[1] for it in needs), len(needs))

    def _batches(self, dataset: WindowDataset) -> Iterator[list[Batch | PackedBatch]]:
        """The micro-batches of each step still to do; several processes share each step."""
        on_gpu = self.run.accelerator.device.type == "cuda"
        steps = [self._passes(step) for step in self.steps[self.run.step :]]
        accelerator = self.run.accelerator
        stream = micro_batches(
            dataset,
            [batch for step in steps for batch in step],
            self._collate(),
            loader_workers(
                self.config.loader_workers, accelerator.device, accelerator.num_processes
            ),
            pin=on_gpu,
        )
        for batches in steps:
            yield [next(stream) for _ in batches]

    def _count_labels(
        self, dataset: WindowDataset, step: range, ready: Sequence[Batch | PackedBatch]
    ) -> int:
        """Labels of the whole step, of which several processes know but their share."""
        if self.run.accelerator.num_processes == 1:
            return sum(batch.label_count for batch in ready)
        return sum(len(dataset.label_ids(index)) for index in step)

    def _read_losses(self) -> None:
        """Write the steps whose losses are still on the device, and report the newest.

        Raises ModelError at a loss that is not finite; no checkpoint has that step yet.
        """
        if not self.unread:
            return
        losses = torch.stack([it.loss for it in self.unread]).tolist()
        now = time.monotonic()
        first = self.run.step - len(self.unread) + 1
        for number, (loss, it) in enumerate(zip(losses, self.unread, strict=True)):
            if not math.isfinite(loss):
                raise ModelError(
                    f"train: the loss is {loss} at step {first + number}; lower "
                    f"train.learning_rate ({self.run.peak_rate:g}) or use another precision"
                )
            if self.history is None:
                continue
            ended = now - (now - self.read_at) * (len(losses) - 1 - number) / len(losses)
            taken = Taken(ended, it.tokens, it.clips, it.waited)
            fields, seconds = self.history.add(first + number, loss, it.rate, taken)
        self.unread.clear()
        self.read_at = now
        if self.history is not None:
            step, eta = self.run.step, seconds * (self.total - self.run.step)
            self.report.progress(step, self.total, eta_seconds=eta, checkpoint=self.saved, **fields)

    def _save_is_due(self) -> bool:
        return (
            self.run.step % self.config.save_steps == 0
            and time.monotonic() - self.saved_at >= self.save_seconds
        )

    def _save(self) -> None:
        if self.run.step == self.saved or self.history is None:
            return
        target = self.checkpoints / f"step-{self.run.step}"
        optimizer = getattr(self.run.optimizer, "optimizer", self.run.optimizer)
        state = self.run.state() | {"plan": self.digest, "batch_clips": self.config.batch_clips}
        save_checkpoint(target, self.run.model, optimizer, state, self.history.path)
        prune(self.checkpoints, self.config.keep_checkpoints)
        self.saved, self.saved_at = self.run.step, time.monotonic()
        log.info("checkpoint %s", target)


def run_rank(spec: JobSpec, job: JobDir, clips: int, resume: Path | None) -> None:
    """Another process's share of `run`, as the environment numbers it; it writes nothing."""
    set_up_cuda()
    loop, dataset = prepare(spec, lay_out(spec, job, clips), resume, Report("train"))
    with suppress(StageStopped):
        loop.train(dataset, None)


def prepare(
    spec: JobSpec, course: Course, resume: Path | None, report: Report
) -> tuple[Loop, WindowDataset]:
    folder = local_model(spec.base_model)
    labels = Labels(folder, find_language(spec.language).token)
    if course.config.threads:
        torch.set_num_threads(course.config.threads)
    run = start_run(folder, course.config, spec.seed, len(course.plan), resume)
    loop = Loop(run, report, course)
    return loop, WindowDataset(course.store, labels, loop.windows)
