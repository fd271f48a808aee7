"""The training loop of one process: its steps, checkpoints, history and progress."""

import importlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from lorajob.errors import ModelError, StageStopped
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.job.results import AugmentationTrial, ValidationPoint
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.training.augmentation import make_alterer, uses_augmentation
from lorajob.training.checkpoint import load_validation, read_state
from lorajob.training.dataset import Course, PaddedBatch, WindowDataset, collate, lay_out
from lorajob.training.device import set_up_cuda
from lorajob.training.encoder_cache import EncodedClips, clips_heard_again, shard_path, write_shard
from lorajob.training.forecast import (
    Forecast,
    Loaded,
    forecast,
    loaded_memory,
    pick_micro_batch,
    write_forecast,
    write_measured,
)
from lorajob.training.held_back import HeldBack
from lorajob.training.history import VALIDATION, History, Taken, Unread
from lorajob.training.packed import PackedBatch
from lorajob.training.passes import Passes
from lorajob.training.start import start_folder
from lorajob.training.trainer import Run, start_run
from lorajob.training.writer import CheckpointWriter
from lorajob.whisper.identity import base_of
from lorajob.whisper.model import suppress_less
from lorajob.whisper.tokens import Labels, allowed_tokens

if TYPE_CHECKING:
    from lorajob.training.trial import TrialRun
    from lorajob.training.validation import Validator

STEPS_TO_FORECAST = 40  # for a shorter training a dry run costs more than it helps
# Losses of so many steps stay on the device. Reading a loss waits for all work of the device.
STEPS_UNREAD = {"cpu": 1, "cuda": 10}

log = logging.getLogger(__name__)


class Loop:
    """Steps, checkpoints, history and progress of one attempt.

    Only rank 0 saves checkpoints and writes history.
    """

    history: History | None = None
    checkpoints: Path
    read_at: float = 0.0  # when losses were last read, in monotonic seconds
    first: int = 1
    step_seconds: float = 0.0  # mean of the last steps
    expected: float | None = None  # seconds of a step by the forecast
    stopped_early: bool = False
    augmentation: AugmentationTrial | None = None  # how a trial of augmentation ended

    def __init__(
        self,
        run: Run,
        report: Report,
        course: Course,
        dataset: WindowDataset,
        validator: "Validator | None" = None,
        trial: "TrialRun | None" = None,
    ) -> None:
        self.config = run.config
        self.run = run
        self.report = report
        self.digest = course.digest
        self.validator, self.trial = validator, trial
        self.warnings: list[str] = []  # for the result
        self.passes = Passes(run, course, dataset)
        self.total = len(course.plan)
        self.writer = CheckpointWriter(run)
        self.unread: list[Unread] = []
        self.steps_unread = STEPS_UNREAD[run.accelerator.device.type]
        run.stop_asked = lambda: report.stop_requested
        self.batches: Iterator[list[PaddedBatch | PackedBatch]] = iter(())

    def train(self, scratch: Path | None) -> None:
        """Take all remaining steps. `scratch` is rank 0's folder for temporary files."""
        loaded = loaded_memory()
        self._pick_micro_batch()
        if self.config.decoder_only:
            self._encode_once(scratch)
        self._start_reading()
        ahead = self._forecast(loaded)
        self.expected = ahead.seconds_a_step if ahead else None
        # The loss of the first step is read at once, to show that the training works.
        self.first = self.run.step + 1
        began = self.read_at = self.writer.begun_at = time.monotonic()
        if self.history is not None:
            self.history.begin(began)
        while not self._ends():
            step = self.passes.steps[self.run.step]
            asked = time.monotonic()
            ready = next(self.batches)
            waited = time.monotonic() - asked
            tokens = self.passes.count_labels(step, ready)
            try:
                loss = self.run.take_step(ready, tokens)
            except torch.OutOfMemoryError as error:
                self.run.use_less_memory(len(step), error)
                self.batches = self.passes.batches()
                continue
            clips = self.passes.count_clips(step)
            self.unread.append(Unread(loss, self.run.rate, tokens, clips, waited))
            saving = self._save_is_due() or self.run.step == self.total
            if saving or self.run.step == self.first or len(self.unread) >= self.steps_unread:
                self._read_losses()
            if self.run.stopping:
                self._read_losses()
                self._stop()
            if saving and self.run.step < self.total:
                self._save()
        # Ends the processes and the thread that read ahead, also if the training ended early.
        self.batches = iter(())
        if ahead is not None and self.history is not None:
            path = self.history.path.with_name("forecast.json")
            validating = self.validator.seconds if self.validator else 0.0
            write_measured(path, ahead, time.monotonic() - began - validating)

    def _ends(self) -> bool:
        """Whether the training ends here.

        Decodes the held-back clips if this is such a step. At the end of the first part of a trial,
        it turns to the second part.
        """
        trial = self.trial
        if trial is not None:
            trial.note()
        ended = self._part_ends()
        if not ended or trial is None or trial.turned or self.validator is None:
            return ended
        if trial.fork is None:
            log.info("augmentation stays off: the training ended before its trial began")
            return True
        self._read_losses()
        self._save()
        losses = None if self.history is None else self.history.steps
        began = time.monotonic()
        self.validator = trial.turn(self.validator, self.config.keep, losses, self._decoded)
        self.stopped_early = False
        self.read_at = time.monotonic()
        if self.history is not None:
            self.history.leave_out(self.read_at - began)
        self.batches = self.passes.batches()
        return self.run.step >= self.total

    @property
    def end(self) -> int:
        """The last step of the part that is being trained."""
        if self.trial is not None and not self.trial.turned:
            return self.trial.plan.plain
        return self.total

    def _part_ends(self) -> bool:
        validator, step = self.validator, self.run.step
        if validator is None:
            return step >= self.end
        if self.history is not None and validator.due(step):
            self._read_losses()
            point = validator.take(step, self._decoded)
            log.info("validation at step %d: WER %.1f, CER %.1f", step, point.wer, point.cer)
            fields = {f"{VALIDATION}wer": point.wer, f"{VALIDATION}cer": point.cer}
            self.history.add_to_newest(fields, point.seconds)
            self.history.show_heard(step, validator.heard)
            self.read_at += point.seconds
            self._report(fields)
        if step not in validator.held.points:
            return step >= self.end
        # Rank 0 decides for all.
        (early,) = broadcast_object_list([validator.gives_up(self.config.patience)])
        self.stopped_early = bool(early) and step < self.end
        return self.stopped_early or step >= self.end

    def keep_weights(self) -> str:
        """Set the weights that the validation prefers, on rank 0. Returns which ones these are."""
        if self.validator is None:
            return "last"
        # Behind this, the adapter holds other weights than those of the step.
        self._save()
        kept = self.validator.choose(self.config.keep, self._decoded)
        if self.trial is not None and self.trial.turned:
            kept, self.augmentation = self.trial.settle(self.validator, kept, self._decoded)
        if self.config.keep == "average" and kept != "average":
            self.warnings.append(
                "train.keep=average: the training ended before two of the last validations, so the "
                f"weights of step {kept} are kept"
            )
            log.warning("%s", self.warnings[-1])
        return kept

    @property
    def kept_steps(self) -> int | None:
        """How many of the first steps led to the weights that are kept; None: all."""
        plain = self.trial.plain if self.trial is not None else None
        trial = self.augmentation
        return plain.losses if plain is not None and trial is not None and not trial.kept else None

    @property
    def points(self) -> list[ValidationPoint]:
        """All validations."""
        plain = self.trial.plain if self.trial is not None else None
        earlier = [] if plain is None else plain.points
        return earlier + (self.validator.taken if self.validator is not None else [])

    def interpolate(self, spec: JobSpec, folder: Path) -> float:
        """Apply `train.interpolate` to the kept weights, on rank 0. Returns the share."""
        share, validator = self.config.interpolate, self.validator
        if share != "auto":
            if share != 1:
                self.run.adapter.scale(share)
            return share
        if validator is None:
            self.warnings.append(
                "train.interpolate=auto: the training is kept whole: no clips are held back"
            )
            log.warning("%s", self.warnings[-1])
            return 1.0
        # It loads the packages of decoding.
        module = importlib.import_module("lorajob.training.interpolation")
        language = find_language(spec.language).token
        measured = module.Interpolator(
            self.run,
            folder,
            language,
            lambda: validator.rate_now(self._decoded),
            lambda: self._decoded(0),
        )
        chosen: float = measured.choose(spec.gate)
        return chosen

    def _decoded(self, clips: int) -> None:
        """Report progress of a validation. Raises StageStopped if a stop was requested."""
        self._report({"validating": clips})
        # Several processes learn of a stop in a step.
        if self.run.accelerator.num_processes == 1 and self.report.stop_requested:
            self._stop()

    def _stop(self) -> NoReturn:
        """End the training, with a checkpoint."""
        self._save()
        self.writer.wait()
        raise StageStopped(f"stopped at step {self.run.step}; its checkpoint is kept")

    def _report(self, fields: Mapping[str, float]) -> None:
        step = self.run.step
        self.writer.before_report()
        eta = self.step_seconds * (self.total - step)
        told = dict(fields)
        if self.validator is not None and (taken := self.validator.taken):
            newest = taken[-1]
            eta += newest.seconds * self.validator.left
            told |= {f"{VALIDATION}wer": newest.wer, f"{VALIDATION}cer": newest.cer}
        told |= {"eta_seconds": eta, "checkpoint": self.writer.saved}
        self.report.progress(step, self.total, **told)
        if self.history is not None and "loss" in fields:
            self.history.log.note(step, self.total, fields, eta)

    def _pick_micro_batch(self) -> None:
        """Measure a full window to choose the micro-batch, unless spec or checkpoint set it."""
        if self.config.micro_batch is not None or self.run.step > 0:
            return
        item = replace(self.passes.dataset[self.passes.fullest_window()], cut=False)
        try:
            self.run.micro_batch = pick_micro_batch(self.run, collate([item]))
        except torch.OutOfMemoryError as error:
            # With several processes, the first step finds out, in all of them at once.
            if self.run.accelerator.num_processes == 1:
                self.run.use_less_memory(1, error)

    def _encode_once(self, scratch: Path | None) -> None:
        """Encode repeated clips once. This is possible because the encoder does not change."""
        accelerator, dataset = self.run.accelerator, self.passes.dataset
        shards = clips_heard_again(
            self.passes.windows,
            self.passes.sizes.seconds,
            self.run.frame_bytes,
            self.config.encoder_outputs_gb * 1e9,
        )
        (place,) = broadcast_object_list([scratch])  # rank 0's folder
        clips = encoded = 0

        def done(more: int) -> None:
            nonlocal encoded
            encoded += more
            fields = {"encoded": encoded, "to_encode": clips, "checkpoint": self.writer.saved}
            self.report.progress(self.run.step, self.total, **fields)
            if self.history is not None:
                self.report.check_stop()

        mine = range(len(shards))[accelerator.process_index :: accelerator.num_processes]
        clips = sum(len(shards[number]) for number in mine)
        for number in mine:
            path = shard_path(place, number)
            write_shard(path, shards[number], dataset.store, self.run.encode, done)
        accelerator.wait_for_everyone()
        dataset.encoded = EncodedClips(place, shards)

    def _start_reading(self) -> None:
        """Read the first batches. The processes that read start here and not in the first step."""
        self.batches = iter(())  # ends earlier ones
        batches = self.passes.batches()
        self.batches = chain(list(islice(batches, 1)), batches)

    def _forecast(self, loaded: Loaded) -> Forecast | None:
        """Forecast a long training. None for a short one, and with several processes."""
        alone = self.run.accelerator.num_processes == 1
        if self.history is None or not alone or self.total - self.run.step < STEPS_TO_FORECAST:
            return None
        while True:
            try:
                ahead = forecast(self.run, self.passes, loaded)
                break
            except torch.OutOfMemoryError as error:
                self.run.use_less_memory(self.run.micro_batch, error)
                self._start_reading()
        write_forecast(self.history.path.with_name("forecast.json"), ahead)
        return ahead

    def _read_losses(self) -> None:
        """Write the steps whose losses are still on the device, and report the newest.

        Raises ModelError if a loss is not finite. No checkpoint contains such a step.
        """
        if not self.unread:
            return
        losses = torch.stack([it.loss for it in self.unread]).tolist()
        now = time.monotonic()
        first = self.run.step - len(self.unread) + 1
        fields = None
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
            fields, self.step_seconds = self.history.add(first + number, loss, it.rate, taken)
        # The first step takes longer than the others, so it says little about them.
        if self.history is not None and self.expected and self.run.step == self.first:
            self.history.shorten_first(min(self.expected, self.step_seconds))
            self.step_seconds = self.expected
        self.unread.clear()
        self.read_at = now
        if fields is not None:
            self._report(fields)

    def _save_is_due(self) -> bool:
        # Other ranks than 0 save nothing, so their clocks do not matter.
        return self.history is not None and self.writer.due(self.run.step)

    def _save(self) -> None:
        """Begin a checkpoint, unless there is one of this step."""
        if self.run.step == self.writer.asked or self.history is None:
            return
        state = self.run.state(self.digest)
        tensors: dict[str, Tensor] = {}
        if self.validator is not None:
            points, tensors = self.validator.state()
            state = state.model_copy(update={"validation": points})
        if self.trial is not None:
            state = state.model_copy(update={"plain": self.trial.plain})
            tensors |= self.trial.tensors()
        self.writer.begin(self.checkpoints, self.run, state, self.history.rows(), tensors)


def run_rank(spec: JobSpec, job: JobDir, clips: int, resume: Path | None, report: Report) -> None:
    """The share of a process other than rank 0 in a training. It writes no files.

    The environment gives the process its number. Raises StageStopped when all processes stop.
    """
    set_up_cuda()
    base = base_of(spec, job)
    course, start = lay_out(spec, job, clips), start_folder(spec, job, base.sha256)
    prepare(spec, base.folder, course, resume, report, start).train(None)


def prepare(
    spec: JobSpec,
    folder: Path,
    course: Course,
    resume: Path | None,
    report: Report,
    start: Path | None = None,
) -> Loop:
    """Load the base model in `folder` and return the loop, at its first step or at the checkpoint
    `resume`. The first step begins with the adapter in `start`, or with a new one.
    """
    language = find_language(spec.language)
    labels = Labels(folder, language.token)
    if course.config.threads:
        torch.set_num_threads(course.config.threads)
    run = start_run(folder, course.config, spec.seed, course.scheduled, resume, start)
    # Validation decodes with the list that the converted model gets.
    suppress_less(run.loss.whisper, allowed_tokens(course.store.folder.parent, labels))
    windows = [window for step in course.plan for window in step]
    alterer = None
    if uses_augmentation(spec, len(course.held.clips)):
        alterer = make_alterer(spec.augment, run.loss.whisper.config.num_mel_bins)
    dataset = WindowDataset(course.store, labels, windows, alterer)
    validator: Validator | None = None
    trial: TrialRun | None = None
    if course.held.clips:
        # It loads the packages of decoding and scoring, for more than a second.
        validation = importlib.import_module("lorajob.training.validation")

        def make(held: HeldBack) -> "Validator":
            made: Validator = validation.Validator(
                run, course.store, labels, held, language, spec.decodes_cut
            )
            return made

        validator = make(course.held)
        if course.trial is not None:
            trials = importlib.import_module("lorajob.training.trial")
            trial = trials.TrialRun(course.trial, run, course.held, make)
        if resume is not None:
            points, tensors = load_validation(resume)
            if trial is not None:
                trial.restore(read_state(resume).plain, tensors)
                validator = make(trial.held) if trial.turned else validator
            validator.restore(points, tensors)
    return Loop(run, report, course, dataset, validator, trial)
