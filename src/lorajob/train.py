"""Stage 2: LoRA on Whisper, in a loop that owns data order, checkpoints and resume.

One optimizer step sees about `batch_clips` clips, packed into windows of 30 s. The loss is the
cross-entropy a token over the whole step, whatever micro-batches and processes share it. A run
that was stopped goes on from its newest good checkpoint as if nothing had happened: the plan of
every epoch follows from the seed, and checkpoints hold all other state.
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter

from lorajob.base_model import local_model
from lorajob.checkpoint import (
    Checkpoint,
    load_checkpoint,
    prune,
    save_adapter,
    save_checkpoint,
    take_over,
)
from lorajob.clipstore import ClipStore
from lorajob.errors import ModelError, StageStopped
from lorajob.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.loss import WhisperLoss
from lorajob.model import load_for_training, pick_precision, trainable_parameters
from lorajob.packing import ClipSizes, Window, plan_epoch
from lorajob.report import Report
from lorajob.results import TrainResult
from lorajob.spec import JobSpec, TrainConfig
from lorajob.tokens import Labels
from lorajob.windows import Batch, WindowDataset, micro_batches

ACCELERATE_PRECISION = {"float32": "no", "fp16": "fp16", "bf16": "bf16"}
RATE_STEPS = 20  # tokens and clips a second are told over so many steps

log = logging.getLogger(__name__)


@dataclass
class Run:
    """All that changes while training, and what a checkpoint holds of it."""

    accelerator: Accelerator
    loss: Any  # WhisperLoss, perhaps wrapped by accelerate
    model: PeftModel
    optimizer: Any
    scheduler: Any
    micro_batch: int
    step: int = 0

    def state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "scheduler": self.scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "micro_batch": self.micro_batch,
            "threads": torch.get_num_threads(),
            "precision": self.accelerator.mixed_precision,
        }


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> TrainResult:
    """Train an adapter on JOB/preprocess/train and write it to `out`/adapter.

    Raises ModelError where the base does not load, StageStopped after a checkpoint was saved.
    """
    config = spec.train
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(spec.seed)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    folder = local_model(spec.base_model)
    labels = Labels(folder, find_language(spec.language).token)
    plan = plan_run(store, config, spec.seed)
    resume = take_over(job.checkpoints, attempt)
    trainer = start_run(folder, config, len(plan), resume, out)
    first = trainer.step
    loop = _Loop(spec, job.checkpoints / str(attempt), out, trainer, report, len(plan))
    loop.train(WindowDataset(store, labels, [w for step in plan for w in step]), plan)
    if trainer.accelerator.is_main_process:
        save_adapter(trainer.model, out / "adapter")
    return TrainResult(
        steps=len(plan),
        epochs=config.epochs,
        loss=loop.final_loss(),
        trainable_parameters=trainable_parameters(trainer.model),
        resumed_from=first,
    )


def plan_run(store: ClipStore, config: TrainConfig, seed: int) -> list[list[Window]]:
    """Every optimizer step of the run, each a list of windows."""
    sizes = ClipSizes(store.seconds.tolist(), store.tokens.tolist(), store.speakers)
    return [
        step for epoch in range(config.epochs) for step in plan_epoch(sizes, config, seed, epoch)
    ]


def start_run(
    folder: Path, config: TrainConfig, steps: int, resume: Checkpoint | None, out: Path
) -> Run:
    """Model, optimizer and schedule, fresh or as the checkpoint left them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = ACCELERATE_PRECISION[pick_precision(config.precision, device)]
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    model = load_for_training(folder, config, accelerator.device, resume.path if resume else None)
    loss = WhisperLoss(model).to(accelerator.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdamW(
        trained,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
    warmup = min(config.warmup_steps, steps // 10)
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, warmup, steps))
    history = out / "history.jsonl"
    history.touch()
    state: dict[str, Any] | None = None
    if resume is not None:
        state = load_checkpoint(resume.path, optimizer)
        scheduler.load_state_dict(state["scheduler"])
        history.write_bytes((resume.path / "history.jsonl").read_bytes())
        log.info("resumed from step %d", resume.step)
        _keep_exact(state, precision)
    loss.train()
    wrapped, prepared = accelerator.prepare(loss, optimizer)
    if state and state["scaler"] and accelerator.scaler:
        accelerator.scaler.load_state_dict(state["scaler"])
    micro_batch, step = (state["micro_batch"], state["step"]) if state else (config.micro_batch, 0)
    return Run(accelerator, wrapped, model, prepared, scheduler, micro_batch, step)


def _keep_exact(state: dict[str, Any], precision: str) -> None:
    """Sums over other threads or in another precision differ in their last bits: go on with as many
    threads as before, and say it where the precision changed.
    """
    torch.set_num_threads(state["threads"])
    if state["precision"] != precision:
        log.warning("precision %r, not %r: no longer exact", precision, state["precision"])


def learning_rate_factor(step: int, warmup: int, steps: int) -> float:
    """Linear warm-up to 1 over `warmup` steps, then linear decay to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup))


class _Loop:
    """Steps, checkpoints, history and progress of one attempt."""

    def __init__(
        self, spec: JobSpec, checkpoints: Path, out: Path, run: Run, report: Report, total: int
    ) -> None:
        self.config = spec.train
        self.checkpoints = checkpoints
        self.run = run
        self.report = report
        self.total = total
        self.saved = run.step
        self.history = out / "history.jsonl"
        lines = self.history.read_text("utf-8").splitlines()
        self.losses: list[float] = []
        self.board = SummaryWriter(str(out / "tensorboard"))
        for row in map(json.loads, lines):  # of earlier attempts
            self.losses.append(row["loss"])
            self._draw(row.pop("step"), row)
        self.recent: list[tuple[float, int, int]] = []  # (time, tokens, clips)

    def train(self, dataset: WindowDataset, plan: list[list[Window]]) -> None:
        batches = self._batches(dataset, plan)
        self.recent.append((time.monotonic(), 0, 0))
        position = sum(len(step) for step in plan[: self.run.step])
        while self.run.step < self.total:
            windows = plan[self.run.step]
            share = range(position, position + len(windows))
            # every process counts the whole step's labels, without asking the others
            tokens = sum(len(dataset.label_ids(index)) for index in share)
            position = share.stop
            try:
                loss = self._step(next(batches), tokens)
            except torch.OutOfMemoryError as error:
                self._use_less_memory(len(windows), error)
                batches = self._batches(dataset, plan)
                position = share.start
                continue
            if not math.isfinite(loss):
                raise ModelError(
                    f"train: the loss is {loss} at step {self.run.step}; lower "
                    f"train.learning_rate ({self.config.learning_rate:g}) or use another precision"
                )
            self._record(loss, tokens, sum(len(window.clips) for window in windows))
            if self.report.stop_requested:
                self._save()
                raise StageStopped(f"stopped at step {self.run.step}; its checkpoint is kept")
            if self.run.step % self.config.save_steps == 0 and self.run.step < self.total:
                self._save()
        self.board.close()

    def _batches(self, dataset: WindowDataset, plan: list[list[Window]]) -> Iterator[list[Batch]]:
        """The micro-batches of each step still to do; several processes share each step."""
        accelerator, size = self.run.accelerator, self.run.micro_batch
        steps: list[list[list[int]]] = []
        position = 0
        for step in plan:
            share = list(range(position, position + len(step)))
            share = share[accelerator.process_index :: accelerator.num_processes]
            steps.append([share[i : i + size] for i in range(0, len(share), size)])
            position += len(step)
        steps = steps[self.run.step :]
        on_gpu = accelerator.device.type == "cuda"
        workers = self.config.loader_workers
        stream = micro_batches(
            dataset,
            [batch for step in steps for batch in step],
            workers if workers is not None else (4 if on_gpu else 0),
            pin=on_gpu,
        )
        for batches in steps:
            yield [next(stream) for _ in batches]

    def _step(self, batches: list[Batch], tokens: int) -> float:
        """One optimizer step; returns the loss a token in nats."""
        accelerator, optimizer = self.run.accelerator, self.run.optimizer
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(batches, start=1):
            last = number == len(batches)
            with nullcontext() if last else accelerator.no_sync(self.run.loss):
                audio = batch.audio.to(accelerator.device, non_blocking=True)
                labels = batch.labels.to(accelerator.device, non_blocking=True)
                loss = self.run.loss(audio, labels) / tokens
                # accelerate averages gradients over processes; the loss is a sum over all of them
                accelerator.backward(loss * accelerator.num_processes)
                total += loss.detach()
        accelerator.clip_grad_norm_(self.run.model.parameters(), self.config.max_grad_norm)
        optimizer.step()
        self.run.scheduler.step()
        optimizer.zero_grad()
        self.run.step += 1
        summed: Tensor = accelerator.reduce(total, "sum")
        return float(summed.item())

    def _use_less_memory(self, windows: int, error: torch.OutOfMemoryError) -> None:
        """Halve the micro-batch, so that the step, taken again, is the same in more parts.

        Raises ModelError where it is one window already, or where other processes go on.
        """
        accelerator = self.run.accelerator
        tried = min(self.run.micro_batch, windows)
        if tried == 1 or accelerator.num_processes > 1:
            raise ModelError(
                f"train: out of memory with train.micro_batch={tried}; make that smaller, take "
                "train.quantization=4bit, train.gradient_checkpointing=true or a smaller base model"
            ) from error
        self.run.micro_batch = tried // 2
        self.run.optimizer.zero_grad()
        if accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory at step %d: going on with micro-batches of %d windows and as many more "
            "of them; the steps stay the same, but no longer bit for bit",
            *(self.run.step + 1, self.run.micro_batch),
        )

    def _record(self, loss: float, tokens: int, clips: int) -> None:
        now, step = time.monotonic(), self.run.step
        self.recent = [*self.recent[-RATE_STEPS:], (now, tokens, clips)]
        seconds = now - self.recent[0][0]
        fields = {
            "loss": loss,
            "learning_rate": self.run.scheduler.get_last_lr()[0],
            "tokens_per_second": sum(entry[1] for entry in self.recent[1:]) / seconds,
            "clips_per_second": sum(entry[2] for entry in self.recent[1:]) / seconds,
        }
        self.losses.append(loss)
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **fields}) + "\n")
        self._draw(step, fields)
        eta = seconds / (len(self.recent) - 1) * (self.total - step)
        self.report.progress(step, self.total, eta_seconds=eta, checkpoint=self.saved, **fields)

    def _draw(self, step: int, fields: dict[str, float]) -> None:
        for name, value in fields.items():
            self.board.add_scalar(f"train/{name}", value, step)

    def _save(self) -> None:
        if self.run.step == self.saved or not self.run.accelerator.is_main_process:
            return
        target = self.checkpoints / f"step-{self.run.step}"
        optimizer = getattr(self.run.optimizer, "optimizer", self.run.optimizer)
        save_checkpoint(target, self.run.model, optimizer, self.run.state(), self.history)
        prune(self.checkpoints, self.config.keep_checkpoints)
        self.saved = self.run.step
        log.info("checkpoint %s", target)

    def final_loss(self) -> float:
        """Mean over the last tenth of the steps."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(last) / len(last)
