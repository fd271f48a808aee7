"""Stage 2: train a LoRA adapter for Whisper, with its own data order, checkpoints and resume.

One optimizer step sees about `batch_clips` clips. Most stand alone in a window cut to their length;
the others are padded or packed to 30 s. The loss is the mean cross-entropy of a token over the
whole step. It does not depend on how micro-batches and processes share the step. A stopped training
continues from its newest valid checkpoint as if it had not been stopped: plans and dropout follow
from the seed, and checkpoints hold everything else.
"""

import logging
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lorajob.job.history import HISTORY, read_history
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.job.results import TrainResult
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.training.checkpoint import kept_batch_clips, name_base, save_adapter, take_over
from lorajob.training.dataset import lay_out
from lorajob.training.device import set_up_cuda, usual_clips
from lorajob.training.history import History
from lorajob.training.loop import Loop, prepare
from lorajob.training.ranks import shared_by, wanted_processes
from lorajob.training.shares import balance
from lorajob.training.start import start_folder
from lorajob.training.trackers import flat_settings, tracked
from lorajob.whisper.identity import base_of
from lorajob.whisper.model import trainable_parameters

log = logging.getLogger(__name__)


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> TrainResult:
    """Train an adapter on JOB/preprocess/train and write it to `out`/adapter.

    Raises ModelError if the base model or the adapter to start from cannot be loaded, StageStopped
    when asked to stop, after saving a checkpoint.
    """
    set_up_cuda()
    base = base_of(spec, job)
    start = start_folder(spec, job, base.sha256)
    processes = wanted_processes(torch.cuda.device_count())
    clips = kept_batch_clips(job.checkpoints) or usual_clips(processes)
    course = lay_out(spec, job, clips)
    if processes > 1:
        log.info(
            "%d processes; the mean one has %.0f %% of the work of the busiest",
            processes,
            100 * balance(course.plan, course.sizes, processes),
        )
    checkpoint = take_over(job.checkpoints, attempt, course.digest)
    resume = checkpoint.path if checkpoint else None
    path = out / HISTORY
    path.write_bytes(read_history(resume) if resume else b"")
    with (
        tracked(spec, job) as trackers,
        shared_by(processes, job, clips, resume),
        closing(History(path, trackers)) as history,
    ):
        history.show_settings(flat_settings(spec))
        history.show_clips(course.store, course.held.clips or range(len(course.store)))
        loop = prepare(spec, base.folder, course, resume, report, start)
        first = loop.run.step
        loop.history, loop.checkpoints = history, job.checkpoints / str(attempt)
        with closing(loop.writer):
            with TemporaryDirectory(dir=out) as scratch:
                loop.train(Path(scratch))
            kept = loop.keep_weights()
            share = loop.interpolate(spec, base.folder)
            loop.writer.wait()
    save_adapter(loop.run.model, out / "adapter")
    name_base(out / "adapter", spec, base)
    return TrainResult(
        steps=loop.run.step,
        epochs=spec.train.epochs,
        loss=history.final_loss(loop.kept_steps),
        trainable_parameters=trainable_parameters(loop.run.model),
        resumed_from=first,
        kept=kept,
        share=share,
        validation_clips=len(course.held.clips),
        validation=loop.points,
        stopped_early=loop.stopped_early,
        augmented=_augmented(spec, loop),
        augmentation=loop.augmentation,
        notes=_notes(spec, loop, len(course.held.clips)),
        start=spec.start.job,
        start_sha256=spec.start.adapter_sha256,
        warnings=[*loop.warnings, *trackers.faults],
    )


def _augmented(spec: JobSpec, loop: Loop) -> bool | None:
    """Whether the kept weights were trained with augmentation; None if nothing asked for it."""
    if spec.augment.use == "off":
        return None
    trial = loop.augmentation
    return spec.augment.use == "always" or (trial is not None and trial.kept)


def _notes(spec: JobSpec, loop: Loop, held_back: int) -> list[str]:
    """What became of augmentation, in one sentence; none if nothing asked for it."""
    trial = loop.augmentation
    if spec.augment.use == "off":
        return []
    if spec.augment.use == "always":
        return ["All training clips were augmented."]
    if trial is None:
        why = (
            "the training ended before its trial" if held_back else "too few clips to decide on it"
        )
        return [f"Augmentation stayed off: {why}."]
    metric = find_language(spec.language).primary_metric
    after, before = getattr(trial.augmented, metric), getattr(trial.plain, metric)
    low, high = trial.difference.interval
    return [
        f"Augmentation was {'kept' if trial.kept else 'not kept'} by a trial: {metric.upper()} "
        f"{after:.1f} % with it, {before:.1f} % without, on {held_back} held-back clips "
        f"({trial.difference.points:.1f} points lower, 95 % interval {low:.1f} to {high:.1f})."
    ]
