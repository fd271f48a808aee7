"""What training changes: the adapter, its optimizer and its schedule, fresh or from a checkpoint.

Several processes (lorajob.training.ranks) share each step: every one sums its share's gradients,
and what is added up over all of them is what a single process would have had. A step draws its
dropout from a seed of its own, so that nothing random has to be kept from step to step.
"""

import logging
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lorajob.errors import ModelError
from lorajob.spec import TrainConfig
from lorajob.training.attention import packs
from lorajob.training.checkpoint import TrainingState, load_checkpoint
from lorajob.training.dataset import Batch
from lorajob.training.graphs import NotRecorded, RecordedPasses
from lorajob.training.lora import FlatAdapter, plain
from lorajob.training.loss import WhisperLoss
from lorajob.training.packed import PackedBatch
from lorajob.training.packing import USUAL_CLIPS
from lorajob.whisper.model import load_for_training, pick_precision

BASE_LEARNING_RATE, BASE_WIDTH = 1e-3, 512
ACCELERATE_PRECISION = {"float32": "no", "fp16": "fp16", "bf16": "bf16"}
# Shapes for which oneDNN keeps what it made, on a CPU: its own 1,024 take a gigabyte where every
# window has another length, and save no time (bench/RESULTS.md).
ONEDNN_SHAPES = "64"
OOM_ELSEWHERE = "in another process of this training"
OOM_AT_LEAST = f"{OOM_ELSEWHERE}, at one window a pass"

log = logging.getLogger(__name__)


@dataclass
class Run:
    """All that changes while training, and what a checkpoint holds of it."""

    accelerator: Accelerator
    loss: WhisperLoss
    model: PeftModel
    adapter: FlatAdapter
    optimizer: Any
    scheduler: Any
    config: TrainConfig
    seed: int
    micro_batch: int
    step: int = 0
    stop_asked: Callable[[], bool] = lambda: False
    packs: bool = False  # whether passes have windows behind each other, without padding
    recorded: RecordedPasses | None = None
    told_to_stop: bool = False  # by any of several processes, and known to all after the same step

    @property
    def peak_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        return float(self.scheduler.base_lrs[0])

    @property
    def rate(self) -> float:
        """The learning rate of the step just taken, as the schedule tells it for the next."""
        return float(self.scheduler.get_last_lr()[0])

    @property
    def stopping(self) -> bool:
        """Whether the training ends with this step; the same in every process."""
        return self.told_to_stop if self.accelerator.num_processes > 1 else self.stop_asked()

    def state(self, plan: str) -> TrainingState:
        """What a checkpoint keeps beside the tensors; `plan` is its windows' digest."""
        scaler = self.accelerator.scaler
        return TrainingState(
            step=self.step,
            scheduler=self.scheduler.state_dict(),
            scaler=scaler.state_dict() if scaler else None,
            micro_batch=self.micro_batch,
            threads=torch.get_num_threads(),
            precision=self.accelerator.mixed_precision,
            plan=plan,
            batch_clips=self.config.batch_clips,
        )

    def take_pass(self, batch: Batch | PackedBatch, tokens: int) -> Tensor:
        """Add a pass's gradients; returns its share of the loss a token of a step of `tokens`."""
        if self.recorded is not None and isinstance(batch, PackedBatch):
            try:
                return self.recorded(batch, tokens)
            except NotRecorded as error:
                log.warning("passes are not recorded, so training is slower: %s", error)
                self.recorded = None
        loss: Tensor = self.loss(batch.to(self.accelerator.device)) / tokens
        self.accelerator.backward(loss)
        self.adapter.collect()
        return loss.detach()

    def take_step(self, batches: Sequence[Batch | PackedBatch], tokens: int) -> Tensor:
        """One optimizer step; returns the loss a token in nats, on the device: reading it waits
        for the step.

        `tokens` are the labels of the whole step, `batches` this process's share, perhaps none.
        Raises torch.OutOfMemoryError, in every process if in one: nothing of the step is left, and
        it can be taken again. MemoryError where it came while the step was applied, perhaps half:
        only a checkpoint is whole then.
        """
        accelerator = self.accelerator
        share = f"{self.seed}/{self.step}/{accelerator.process_index}"
        torch.manual_seed(random.Random(share).getrandbits(63))
        total = torch.zeros((), device=accelerator.device)
        lack: torch.OutOfMemoryError | None = None
        try:
            for batch in batches:
                total += self.take_pass(batch, tokens)
        except torch.OutOfMemoryError as error:
            lack = error
        if accelerator.num_processes > 1:
            marks = self.stop_asked(), lack is not None, lack is not None and self.micro_batch == 1
            told = torch.stack([total, *map(total.new_tensor, marks)])
            total, stopping, lacking, at_least = accelerator.reduce(told, "sum")
            self.told_to_stop = bool(stopping)
            if at_least:  # for all of them, or one alone would end
                lack = torch.OutOfMemoryError(OOM_AT_LEAST)
            elif lacking and lack is None:
                lack = torch.OutOfMemoryError(OOM_ELSEWHERE)
        if lack is not None:
            self.adapter.clear_gradient()  # taken again, it begins from none
            raise lack
        try:
            if accelerator.num_processes > 1:
                # not DistributedDataParallel: that averages, and waits for a backward pass of each
                summed: Tensor = accelerator.reduce(self.adapter.gradient, "sum")
                self.adapter.gradient.copy_(summed)
            accelerator.clip_grad_norm_([self.adapter.weights], self.config.max_grad_norm)
            self.optimizer.step()
            self.adapter.refresh()
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"step {self.step + 1} may be half applied; the next attempt goes on from the "
                "last checkpoint"
            ) from error
        self.scheduler.step()
        self.adapter.clear_gradient()
        self.step += 1
        return total

    def use_less_memory(self, windows: int, error: torch.OutOfMemoryError) -> None:
        """Halve the micro-batch, so that a step of `windows`, taken again, is the same in more
        parts. Raises ModelError where it is one window already.
        """
        alone = self.accelerator.num_processes == 1
        tried = min(self.micro_batch, windows) if alone else self.micro_batch
        if OOM_AT_LEAST in str(error):
            tried = 1
        elif tried == 1 and OOM_ELSEWHERE in str(error):
            return
        if tried == 1:
            raise ModelError(
                f"train: out of memory with train.micro_batch={tried}; make that smaller, take "
                "train.quantization=4bit, train.gradient_checkpointing=true or a smaller base model"
            ) from error
        self.micro_batch = tried // 2
        if self.recorded is not None:
            self.recorded.forget()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory at step %d: going on with micro-batches of %d windows and as many more "
            "of them; the steps stay the same, but no longer bit for bit",
            *(self.step + 1, self.micro_batch),
        )

    @property
    def frame_bytes(self) -> int:
        """What `encode` gives for a fiftieth of a second."""
        whisper = self.loss.whisper
        return int(whisper.config.d_model * whisper.dtype.itemsize)

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """What the encoder, if it is frozen, makes of float32 audio [windows, samples] in every
        step: [windows, frames, width].
        """
        encoder = self.loss.whisper.model.encoder.eval()
        encoded = self.loss.encode(audio.to(self.accelerator.device))
        encoder.train()
        return encoded


def start_run(folder: Path, config: TrainConfig, seed: int, steps: int, resume: Path | None) -> Run:
    """Model, optimizer and schedule for `steps` steps, fresh or as the checkpoint `resume` left
    them.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_SHAPES)  # read at first use
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = ACCELERATE_PRECISION[pick_precision(config.precision, device)]
    threads = torch.get_num_threads()
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    torch.set_num_threads(threads)  # accelerate sets its own where several processes share a CPU
    model = load_for_training(folder, config, accelerator.device, resume)
    loss = WhisperLoss(model).to(accelerator.device)
    adapter = FlatAdapter(model, loss.whisper.dtype)
    width = loss.whisper.config.d_model
    optimizer = AdamW(
        [adapter.weights],
        lr=config.learning_rate or pick_learning_rate(width, config.batch_clips or USUAL_CLIPS),
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
    warmup = min(config.warmup_steps, steps // 10)
    decay = round(config.decay * steps)
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, warmup, decay, steps))
    state: TrainingState | None = None
    if resume is not None:
        state = load_checkpoint(resume, optimizer)
        scheduler.load_state_dict(state.scheduler)
        log.info("resumed from step %d", state.step)
        _keep_exact(state, precision)
    else:
        _allocate_moments(optimizer)
    loss.train()
    prepared = accelerator.prepare_optimizer(optimizer)
    if state and state.scaler and accelerator.scaler:
        accelerator.scaler.load_state_dict(state.scaler)
    if accelerator.scaler:  # a process without windows in its first step unscales all the same
        accelerator.scaler.scale(torch.zeros((), device=accelerator.device))
    micro_batch, step = config.micro_batch or 1, 0
    if state:
        micro_batch, step = state.micro_batch, state.step
    run = Run(
        accelerator,
        loss,
        model,
        adapter,
        prepared,
        scheduler,
        config,
        seed,
        micro_batch,
        step,
    )
    run.packs = packs(device, loss.whisper.dtype)
    if run.packs and config.cuda_graphs and not config.gradient_checkpointing and plain(model):
        run.recorded = RecordedPasses(loss, accelerator.backward, adapter)
    return run


def _allocate_moments(optimizer: AdamW) -> None:
    """What AdamW would else allocate in its first step, where it is too late to lack memory: then
    some parameters might have been changed.
    """
    for group in optimizer.param_groups:
        for it in group["params"]:
            optimizer.state[it] = {
                "step": torch.zeros((), device=it.device if group["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(it, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(it, memory_format=torch.preserve_format),
            }


def _keep_exact(state: TrainingState, precision: str) -> None:
    """Sums over other threads or in another precision differ in their last bits: go on with as many
    threads as before, and say it where the precision changed.
    """
    torch.set_num_threads(state.threads)
    if state.precision != precision:
        log.warning("precision %r, not %r: no longer exact", precision, state.precision)


def pick_learning_rate(width: int, batch_clips: int = USUAL_CLIPS) -> float:
    """The peak rate for a base model whose hidden states have `width` entries, and so many clips a
    step: by the square root of these, as noise of Adam's steps goes.

    Chosen on whisper-base (512) by held-out loss, among half and twice as much, and tried on no
    other; from there it falls as the width grows, as the best rate of Adam does for matrices (Yang
    et al., arXiv 2203.03466). More clips than usual raise it no further than to the 1e-3 of the
    public recipe.
    """
    usual = BASE_LEARNING_RATE * BASE_WIDTH / width
    rate = usual * math.sqrt(batch_clips / USUAL_CLIPS)
    return min(rate, max(usual, BASE_LEARNING_RATE))


def learning_rate_factor(step: int, warmup: int, decay: int, steps: int) -> float:
    """Linear warm-up to 1 over `warmup` steps, then 1, then linearly to 0 over the last `decay`.

    Short runs learn far more so than where the rate falls from the warm-up on (Hu et al.,
    arXiv 2404.06395; Haegele et al., arXiv 2405.18392).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, (steps - step) / max(1, min(decay, steps - warmup)))
