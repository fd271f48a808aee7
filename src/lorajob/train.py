"""Stage 2: LoRA on Whisper, in a loop that owns data order, checkpoints and resume.

One optimizer step sees about `batch_clips` clips, most alone in a window cut to their length, the
others padded or packed to 30 s. The loss is the cross-entropy a token over the whole step, whatever
micro-batches and processes share it. A run that was stopped goes on from its newest good checkpoint
as if nothing had happened: plans and dropout follow from the seed, checkpoints hold all else.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.tensorboard import SummaryWriter

from lorajob.base_model import local_model
from lorajob.checkpoint import prune, save_adapter, save_checkpoint, take_over
from lorajob.errors import ModelError, StageStopped
from lorajob.jobdir import JobDir, write_json
from lorajob.languages import find_language
from lorajob.model import trainable_parameters
from lorajob.packing import group_batches, pass_seconds
from lorajob.planner import GIB, Forecast, forecast, peak_memory, pick_micro_batch
from lorajob.ranks import shared_by, wanted_processes
from lorajob.report import Report
from lorajob.results import TrainResult
from lorajob.spec import JobSpec
from lorajob.tokens import Labels
from lorajob.trainer import OOM_AT_LEAST, OOM_ELSEWHERE, Run, start_run
from lorajob.windows import Batch, Course, WindowDataset, collate, lay_out, micro_batches

# What a forward and backward pass costs beside its windows, in seconds of audio: on a CPU as
# bench/passes.py tells; on a card a guess, so that passes are as full as micro-batches allow.
PASS_SECONDS = {"cpu": 1.0, "cuda": 30.0}
STEPS_TO_FORECAST = 40  # a shorter run is over before a dry run pays
RATE_STEPS = 20  # tokens and clips a second are told over so many steps

log = logging.getLogger(__name__)


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> TrainResult:
    """Train an adapter on JOB/preprocess/train and write it to `out`/adapter.

    Raises ModelError where the base does not load, StageStopped after a checkpoint was saved.
    """
    course = lay_out(spec, job)
    checkpoint = take_over(job.checkpoints, attempt, course.digest)
    resume = checkpoint.path if checkpoint else None
    history = out / "history.jsonl"
    history.write_bytes((resume / history.name).read_bytes() if resume else b"")
    with shared_by(wanted_processes(torch.cuda.device_count()), job, resume):
        loop, dataset = _prepare(spec, course, resume, report)
        first = loop.run.step
        loop.keep(history, job.checkpoints / str(attempt))
        try:
            loop.train(dataset)
        finally:  # while its folder is there
            with suppress(OSError):
                loop.board.close()
    save_adapter(loop.run.model, out / "adapter")
    return TrainResult(
        steps=loop.total,
        epochs=spec.train.epochs,
        loss=loop.final_loss(),
        trainable_parameters=trainable_parameters(loop.run.model),
        resumed_from=first,
    )


def run_rank(spec: JobSpec, job: JobDir, resume: Path | None) -> None:
    """Another process's share of `run`, as the environment numbers it; it writes nothing."""
    loop, dataset = _prepare(spec, lay_out(spec, job), resume, Report("train"))
    with suppress(StageStopped):
        loop.train(dataset)


def _prepare(
    spec: JobSpec, course: Course, resume: Path | None, report: Report
) -> tuple["_Loop", WindowDataset]:
    folder = local_model(spec.base_model)
    labels = Labels(folder, find_language(spec.language).token)
    if course.config.threads:
        torch.set_num_threads(course.config.threads)
    run = start_run(folder, course.config, spec.seed, len(course.plan), resume)
    loop = _Loop(run, report, course)
    return loop, WindowDataset(course.store, labels, loop.windows)


class _Rate(NamedTuple):
    """A step, for the rates: when it ended, what it held, seconds it waited for its batches."""

    time: float
    tokens: int
    clips: int
    waited: float


class _Loop:
    """Steps, checkpoints, history and progress of one attempt."""

    def __init__(self, run: Run, report: Report, course: Course) -> None:
        plan = course.plan
        self.config = run.config
        self.run = run
        self.report = report
        self.sizes = course.sizes
        self.digest = course.digest
        self.windows = [window for step in plan for window in step]
        ends = list(accumulate(map(len, plan)))
        self.steps = [range(end - len(step), end) for end, step in zip(ends, plan, strict=True)]
        self.total = len(plan)
        self.saved = run.step
        self.losses: list[float] = []
        self.recent: list[_Rate] = []
        self.history: Path | None = None  # of this process, if it keeps what the training leaves
        self.foretold: Forecast | None = None
        run.stop_asked = lambda: report.stop_requested

    def keep(self, history: Path, checkpoints: Path) -> None:
        """Write history (which holds earlier attempts' steps), its pictures and checkpoints."""
        self.history, self.checkpoints = history, checkpoints
        self.board = SummaryWriter(str(history.parent / "tensorboard"))
        for row in map(json.loads, history.read_text("utf-8").splitlines()):
            self.losses.append(row["loss"])
            self._draw(row.pop("step"), row)

    def train(self, dataset: WindowDataset) -> None:
        self._look_ahead(dataset)
        batches = self._batches(dataset)
        began = time.monotonic()
        self.recent.append(_Rate(began, 0, 0, 0.0))
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
                self._use_less_memory(len(step), error)
                batches = self._batches(dataset)
                continue
            if not math.isfinite(loss):
                raise ModelError(
                    f"train: the loss is {loss} at step {self.run.step}; lower "
                    f"train.learning_rate ({self.run.peak_rate:g}) or use another precision"
                )
            clips = sum(len(self.windows[index].clips) for index in step)
            self._record(loss, _Rate(time.monotonic(), tokens, clips, waited))
            if self.run.stopping:
                self._save()
                raise StageStopped(f"stopped at step {self.run.step}; its checkpoint is kept")
            if self.run.step % self.config.save_steps == 0 and self.run.step < self.total:
                self._save()
        self._look_back(time.monotonic() - began)

    def _look_ahead(self, dataset: WindowDataset) -> None:
        """Pick the micro-batch where that is left to us, and foretell what a long run will take."""

        def cost(batch: list[int]) -> float:
            return pass_seconds(batch, self.windows, self.sizes)

        def load(batch: list[int]) -> Batch:
            return collate([dataset[index] for index in batch])

        steps = self.steps[self.run.step :]
        alone = self.run.accelerator.num_processes == 1
        if self.config.micro_batch is None and self.run.step == 0:
            fullest = max(range(len(self.windows)), key=lambda index: cost([index]))
            item = replace(dataset[fullest], cut=False)
            try:
                self.run.micro_batch = pick_micro_batch(self.run, collate([item]))
            except torch.OutOfMemoryError as error:
                if alone:  # else the first step tells, in all processes
                    self._use_less_memory(1, error)
        if self.history is None or not alone or len(steps) < STEPS_TO_FORECAST:
            return
        while True:
            passes = [batch for step in steps for batch in self._passes(step)]
            try:
                ahead = self.foretold = forecast(self.run, passes, cost, load, len(steps))
                break
            except torch.OutOfMemoryError as error:
                self._use_less_memory(self.run.micro_batch, error)
        write_json(self.history.parent / "forecast.json", ahead.as_dict())
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
        write_json(self.history.parent / "forecast.json", values)
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
        return group_batches(mine, self.windows, self.sizes, self.run.micro_batch, overhead)

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

    def _use_less_memory(self, windows: int, error: torch.OutOfMemoryError) -> None:
        """Halve the micro-batch, so that the step, taken again, is the same in more parts.

        Raises ModelError where it is one window already.
        """
        accelerator = self.run.accelerator
        alone = accelerator.num_processes == 1
        tried = min(self.run.micro_batch, windows) if alone else self.run.micro_batch
        if OOM_AT_LEAST in str(error):
            tried = 1
        elif tried == 1 and OOM_ELSEWHERE in str(error):
            return
        if tried == 1:
            raise ModelError(
                f"train: out of memory with train.micro_batch={tried}; make that smaller, take "
                "train.quantization=4bit, train.gradient_checkpointing=true or a smaller base model"
            ) from error
        self.run.micro_batch = tried // 2
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory at step %d: going on with micro-batches of %d windows and as many more "
            "of them; the steps stay the same, but no longer bit for bit",
            *(self.run.step + 1, self.run.micro_batch),
        )

    def _record(self, loss: float, rate: "_Rate") -> None:
        step = self.run.step
        self.recent = [*self.recent[-RATE_STEPS:], rate]
        seconds = rate.time - self.recent[0].time
        taken = self.recent[1:]
        fields = {
            "loss": loss,
            "learning_rate": self.run.scheduler.get_last_lr()[0],
            "tokens_per_second": sum(it.tokens for it in taken) / seconds,
            "clips_per_second": sum(it.clips for it in taken) / seconds,
            "waited_for_data": sum(it.waited for it in taken) / seconds,
        }
        self.losses.append(loss)
        if self.history is None:
            return
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **fields}) + "\n")
        self._draw(step, fields)
        eta = seconds / len(taken) * (self.total - step)
        self.report.progress(step, self.total, eta_seconds=eta, checkpoint=self.saved, **fields)

    def _draw(self, step: int, fields: dict[str, float]) -> None:
        for name, value in fields.items():
            self.board.add_scalar(f"train/{name}", value, step)

    def _save(self) -> None:
        if self.run.step == self.saved or self.history is None:
            return
        target = self.checkpoints / f"step-{self.run.step}"
        optimizer = getattr(self.run.optimizer, "optimizer", self.run.optimizer)
        state = self.run.state() | {"plan": self.digest}
        save_checkpoint(target, self.run.model, optimizer, state, self.history)
        prune(self.checkpoints, self.config.keep_checkpoints)
        self.saved = self.run.step
        log.info("checkpoint %s", target)

    def final_loss(self) -> float:
        """Mean over the last tenth of the steps."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last)
