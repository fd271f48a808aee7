"""The training loop of one process: its steps, checkpoints, history and progress."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from lorajob.errors import ModelError, StageStopped
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.training.checkpoint import prune, save_checkpoint
from lorajob.training.dataset import Batch, Course, WindowDataset, collate, lay_out, micro_batches
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
from lorajob.training.packing import group_batches, is_encoded, pass_seconds
from lorajob.training.trainer import Run, start_run
from lorajob.whisper.base_model import local_model
from lorajob.whisper.tokens import Labels

# What a forward and backward pass costs beside its windows, in seconds of audio: on a CPU as
# bench/passes.py tells; on a card a guess, so that passes are as full as micro-batches allow.
PASS_SECONDS = {"cpu": 1.0, "cuda": 30.0}
STEPS_TO_FORECAST = 40  # a shorter run is over before a dry run pays

log = logging.getLogger(__name__)


class Loop:
    """Steps, checkpoints, history and progress of one attempt; the latter two are rank 0's."""

    history: History | None = None
    checkpoints: Path
    foretold: Forecast | None = None

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
        run.stop_asked = lambda: report.stop_requested

    def train(self, dataset: WindowDataset, scratch: Path | None) -> None:
        """Take all steps that are left; rank 0 has a folder for what is only needed meanwhile."""
        loaded = loaded_memory()
        self._pick_micro_batch(dataset)
        if self.config.decoder_only:
            self._encode_once(dataset, scratch)
        self._look_ahead(dataset, loaded)
        batches = self._batches(dataset)
        began = time.monotonic()
        if self.history is not None:
            self.history.begin(began)
        while self.run.step < self.total:
            step = self.steps[self.run.step]
            # every process counts the whole step's labels, without asking the others
            tokens = sum(len(dataset.label_ids(index)) for index in step)
            asked = time.monotonic()
            ready = next(batches)
            waited = time.monotonic() - asked
            try:
                loss = self.run.take_step(ready, tokens)
            except torch.OutOfMemoryError as error:
                self.run.use_less_memory(len(step), error)
                batches = self._batches(dataset)
                continue
            if not math.isfinite(loss):
                raise ModelError(
                    f"train: the loss is {loss} at step {self.run.step}; lower "
                    f"train.learning_rate ({self.run.peak_rate:g}) or use another precision"
                )
            clips = sum(len(self.windows[index].clips) for index in step)
            self._record(loss, Taken(time.monotonic(), tokens, clips, waited))
            if self.run.stopping:
                self._save()
                raise StageStopped(f"stopped at step {self.run.step}; its checkpoint is kept")
            if self.run.step % self.config.save_steps == 0 and self.run.step < self.total:
                self._save()
        self._look_back(time.monotonic() - began)

    def _cost(self, batch: list[int]) -> float:
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

        def load(batch: list[int]) -> Batch:
            return collate([dataset[index] for index in batch])

        steps = self.steps[self.run.step :]
        alone = self.run.accelerator.num_processes == 1
        if self.history is None or not alone or len(steps) < STEPS_TO_FORECAST:
            return
        while True:
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
        overhead = PASS_SECONDS[accelerator.device.type]
        return group_batches(
            *(mine, self.windows, self.sizes, self.run.micro_batch, overhead, self.encoded)
        )

    def _batches(self, dataset: WindowDataset) -> Iterator[list[Batch]]:
        """The micro-batches of each step still to do; several processes share each step."""
        on_gpu = self.run.accelerator.device.type == "cuda"
        steps = [self._passes(step) for step in self.steps[self.run.step :]]
        workers = self.config.loader_workers
        stream = micro_batches(
            dataset,
            [batch for step in steps for batch in step],
            workers if workers is not None else (4 if on_gpu else 0),
            pin=on_gpu,
        )
        for batches in steps:
            yield [next(stream) for _ in batches]

    def _record(self, loss: float, taken: Taken) -> None:
        if self.history is None:
            return
        step, rate = self.run.step, self.run.scheduler.get_last_lr()[0]
        fields, seconds = self.history.add(step, loss, rate, taken)
        eta = seconds * (self.total - step)
        self.report.progress(step, self.total, eta_seconds=eta, checkpoint=self.saved, **fields)

    def _save(self) -> None:
        if self.run.step == self.saved or self.history is None:
            return
        target = self.checkpoints / f"step-{self.run.step}"
        optimizer = getattr(self.run.optimizer, "optimizer", self.run.optimizer)
        state = self.run.state() | {"plan": self.digest}
        save_checkpoint(target, self.run.model, optimizer, state, self.history.path)
        prune(self.checkpoints, self.config.keep_checkpoints)
        self.saved = self.run.step
        log.info("checkpoint %s", target)


def run_rank(spec: JobSpec, job: JobDir, resume: Path | None) -> None:
    """Another process's share of `run`, as the environment numbers it; it writes nothing."""
    loop, dataset = prepare(spec, lay_out(spec, job), resume, Report("train"))
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
