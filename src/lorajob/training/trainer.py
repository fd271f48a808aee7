"""The state of a training: adapter, optimizer and schedule, new or from a checkpoint.

Several processes (lorajob.training.ranks) can share each step. Each sums the gradients of its
share. The sum over all processes equals the gradient of a single process. Each step draws its
dropout from its own seed, so checkpoints need no random state.
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

from lorajob.cores import memory_share
from lorajob.errors import TooLarge
from lorajob.spec import TrainConfig
from lorajob.training.attention import packs
from lorajob.training.checkpoint import TrainingState, load_checkpoint
from lorajob.training.dataset import PaddedBatch
from lorajob.training.graphs import NotRecorded, RecordedPasses
from lorajob.training.lora import FlatAdapter
from lorajob.training.loss import WhisperLoss
from lorajob.training.packed import PackedBatch
from lorajob.training.packing import USUAL_CLIPS
from lorajob.training.products import keep_freed_memory, reorder_if_they_fit
from lorajob.whisper.model import is_plain, load_adapter, load_for_training, pick_precision

BASE_LEARNING_RATE, BASE_WIDTH = 1e-3, 512
ACCELERATE_PRECISION = {"float32": "no", "fp16": "fp16", "bf16": "bf16"}
# Shapes whose compiled products oneDNN keeps on a CPU. A pass has about 70 of them, and passes of
# other lengths have others (bench/RESULTS.md).
ONEDNN_SHAPES = "1024"
OOM_ELSEWHERE = "in another process of this training"
OOM_AT_LEAST = f"{OOM_ELSEWHERE}, at one window a pass"

log = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything that changes during a training. `state` is the part for checkpoints."""

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
    packs: bool = False  # whether passes join windows without padding
    recorded: RecordedPasses | None = None
    # Whether any of several processes was asked to stop. All know it after the same step.
    told_to_stop: bool = False

    @property
    def peak_rate(self) -> float:
        """The learning rate at the end of the warm-up."""
        return float(self.scheduler.base_lrs[0])

    @property
    def rate(self) -> float:
        """The current learning rate of the schedule."""
        return float(self.scheduler.get_last_lr()[0])

    @property
    def stopping(self) -> bool:
        """Whether the training stops after this step. It is the same in all processes."""
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

    def take_pass(self, batch: PaddedBatch | PackedBatch, tokens: int) -> Tensor:
        """Add the gradients of a pass. Returns its summed loss divided by the step's `tokens`."""
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

    def take_step(self, batches: Sequence[PaddedBatch | PackedBatch], tokens: int) -> Tensor:
        """Take one optimizer step. Returns the mean loss of a token in nats, on the device.

        Reading the loss waits for the step. `tokens` is the number of labels in the whole step.
        `batches` is this process's share, which may be empty.

        Raises torch.OutOfMemoryError if a pass runs out of memory, in all processes if in one. The
        step then has no effect and can be taken again. Raises MemoryError if applying the step
        runs out of memory. The weights may then be half changed, and only a checkpoint is valid.
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
            # Raised in all processes, else only one would end.
            if at_least:
                lack = torch.OutOfMemoryError(OOM_AT_LEAST)
            elif lacking and lack is None:
                lack = torch.OutOfMemoryError(OOM_ELSEWHERE)
        if lack is not None:
            self.adapter.clear_gradient()
            raise lack
        try:
            if accelerator.num_processes > 1:
                # DistributedDataParallel does not fit: it averages the gradients, and it expects a
                # backward pass in each process.
                summed: Tensor = accelerator.reduce(self.adapter.gradient, "sum")
                self.adapter.gradient.copy_(summed)
            accelerator.clip_grad_norm_([self.adapter.weights], self.config.max_grad_norm)
            self.optimizer.step()
            self.adapter.refresh()
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"step {self.step + 1} may be half applied; the next attempt continues from the "
                "last checkpoint"
            ) from error
        self.scheduler.step()
        self.adapter.clear_gradient()
        self.step += 1
        return total

    def use_less_memory(self, windows: int, error: torch.OutOfMemoryError) -> None:
        """Halve the micro-batch, so that the step of `windows` is taken again in smaller passes.

        Raises TooLarge if the micro-batch is one window already.
        """
        alone = self.accelerator.num_processes == 1
        tried = min(self.micro_batch, windows) if alone else self.micro_batch
        if OOM_AT_LEAST in str(error):
            tried = 1
        elif tried == 1 and OOM_ELSEWHERE in str(error):
            return
        if tried == 1:
            raise TooLarge(
                "train: out of memory with train.micro_batch=1; set train.quantization=4bit or "
                "train.gradient_checkpointing=true, or choose a smaller base model"
            ) from error
        self.micro_batch = tried // 2
        if self.recorded is not None:
            self.recorded.forget()
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory at step %d: continuing with smaller passes, in micro-batches of %d "
            "windows; the steps stay the same, but no longer bit for bit",
            self.step + 1,
            self.micro_batch,
        )

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame of `encode`, that is of a fiftieth of a second."""
        whisper = self.loss.whisper
        return int(whisper.config.d_model * whisper.dtype.itemsize)

    @property
    def copied_bytes(self) -> int:
        """The memory of reordered weights."""
        return sum(it.copied_bytes for it in [*self.adapter.products, self.loss.head])

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        """The output of a frozen encoder, which is the same in each step.

        Maps float32 audio [windows, samples] to [windows, frames, width].
        """
        encoder = self.loss.whisper.model.encoder.eval()
        encoded = self.loss.encode(audio.to(self.accelerator.device))
        encoder.train()
        return encoded


def start_run(
    folder: Path,
    config: TrainConfig,
    seed: int,
    steps: int,
    resume: Path | None,
    start: Path | None = None,
) -> Run:
    """Model, optimizer and schedule for `steps` steps, new or from the checkpoint `resume`.

    A new training begins with the adapter in `start`, if there is one.
    """
    # oneDNN reads the variable when it is first used.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_SHAPES)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    precision = ACCELERATE_PRECISION[pick_precision(config.precision, device)]
    threads = torch.get_num_threads()
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
    # accelerate changes the number of threads if several processes share a CPU.
    torch.set_num_threads(threads)
    model = load_for_training(folder, config, accelerator.device, resume)
    if start is not None and resume is None:
        load_adapter(model, start)
    loss = WhisperLoss(model).to(accelerator.device)
    adapter = FlatAdapter(model, loss.whisper.dtype)
    memory = memory_share(accelerator.num_processes)
    reorder_if_they_fit([*adapter.products, loss.head], memory)
    width = loss.whisper.config.d_model
    optimizer = AdamW(
        [adapter.weights],
        lr=config.learning_rate or pick_learning_rate(width, config.batch_clips or USUAL_CLIPS),
        weight_decay=config.weight_decay,
        fused=True,
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
    # The scaler must be set up here: a process may have no windows in its first step, and still it
    # unscales gradients.
    if accelerator.scaler:
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
    records = config.cuda_graphs and not config.gradient_checkpointing and not config.dora
    if run.packs and records and is_plain(model):
        run.recorded = RecordedPasses(loss, accelerator.backward, adapter)
    return run


def _allocate_moments(optimizer: AdamW) -> None:
    """Allocate AdamW's state before its first step.

    If memory ran out during the first step, some parameters might already be changed.
    """
    for group in optimizer.param_groups:
        for it in group["params"]:
            optimizer.state[it] = {
                "step": torch.zeros((), device=it.device),
                "exp_avg": torch.zeros_like(it, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(it, memory_format=torch.preserve_format),
            }


def _keep_exact(state: TrainingState, precision: str) -> None:
    """Set the number of threads of the checkpoint, and warn if the precision has changed.

    Both affect the last bits of sums.
    """
    torch.set_num_threads(state.threads)
    if state.precision != precision:
        log.warning("precision %r, not %r: no longer exact", precision, state.precision)


def pick_learning_rate(width: int, batch_clips: int = USUAL_CLIPS) -> float:
    """The peak learning rate for a base model of this `width` and this many clips in a step.

    It was chosen on whisper-base (width 512) by held-out loss, against half and twice the rate. No
    other model was tried. It falls in proportion to the width, as the best rate of Adam for
    matrices does (Yang et al., arXiv 2203.03466). It grows with the square root of the clips, as
    the noise of Adam's steps suggests, but at most to the 1e-3 of the public recipe.
    """
    usual = BASE_LEARNING_RATE * BASE_WIDTH / width
    rate = usual * math.sqrt(batch_clips / USUAL_CLIPS)
    return min(rate, max(usual, BASE_LEARNING_RATE))


def learning_rate_factor(step: int, warmup: int, decay: int, steps: int) -> float:
    """Linear warm-up to 1 over `warmup` steps, then 1, then linear decay to 0 over `decay` steps.

    Short trainings learn far more this way than if the rate falls directly after the warm-up (Hu et
    al., arXiv 2404.06395; Haegele et al., arXiv 2405.18392).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return min(1.0, (steps - step) / max(1, min(decay, steps - warmup)))
