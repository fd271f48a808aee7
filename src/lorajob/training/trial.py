"""The trial of augmentation: the last steps are taken twice, without it and then with it.

The held-back clips decide which weights are kept. Up to the end of its first part the training is
the one without augmentation, step for step. Then weights and optimizer return to the step where the
trial begins (the fork), and the remaining steps are taken again with altered sound, at the same
learning rates. So both parts have the same number of steps, and the job's model is never worse on
the held-back clips than without the trial.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorajob.job.results import AugmentationTrial
from lorajob.speech.scoring import difference
from lorajob.training.checkpoint import PlainOutcome
from lorajob.training.held_back import HeldBack, TrialPlan
from lorajob.training.trainer import Run
from lorajob.training.validation import Validator

log = logging.getLogger(__name__)

FORK = "fork_"  # prefix of the fork's tensors in a checkpoint
PLAIN = "plain"  # name of the tensor of the weights without augmentation


@dataclass(frozen=True)
class Fork:
    """Weights and state of the optimizer where the trial begins, on the CPU."""

    tensors: dict[str, Tensor]

    @classmethod
    def at(cls, run: Run) -> "Fork":
        state = run.optimizer.state[run.adapter.weights]
        found = {"weights": run.adapter.weights, **state}
        return cls({name: it.detach().to("cpu", copy=True) for name, it in found.items()})

    @classmethod
    def read(cls, tensors: dict[str, Tensor]) -> "Fork | None":
        """The fork in the tensors of a checkpoint; None before it."""
        found = {
            name.removeprefix(FORK): it for name, it in tensors.items() if name.startswith(FORK)
        }
        return cls(found) if found else None

    def written(self) -> dict[str, Tensor]:
        """The tensors for a checkpoint."""
        return {f"{FORK}{name}": it for name, it in self.tensors.items()}

    @torch.no_grad()
    def restore(self, run: Run, trial: TrialPlan) -> None:
        """Go on from the fork with the first step of the plan's second part."""
        set_weights(run, self.tensors["weights"])
        for name, value in run.optimizer.state[run.adapter.weights].items():
            value.copy_(self.tensors[name])
        run.adapter.clear_gradient()
        scheduler = run.scheduler
        rates = [
            base * factor(trial.begins)
            for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        scheduler.last_epoch, scheduler._last_lr = trial.begins, rates
        for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        run.step = trial.plain


@torch.no_grad()
def set_weights(run: Run, weights: Tensor) -> None:
    """Set the adapter's weights."""
    run.adapter.weights.copy_(weights)
    run.adapter.refresh()


class TrialRun:
    """The state of the trial in one process. Only the first process decodes."""

    def __init__(
        self,
        plan: TrialPlan,
        run: Run,
        held: HeldBack,
        make_validator: Callable[[HeldBack], Validator],
    ) -> None:
        self.plan, self.run = plan, run
        self.held = plan.points(held)  # of the second part
        self.turned = False  # whether the second part has begun
        self.fork: Fork | None = None
        self.plain: PlainOutcome | None = None
        self._weights: Tensor | None = None  # that the first part would keep
        self._make_validator = make_validator

    def note(self) -> None:
        """Keep the fork, if the training has just come to it."""
        if not self.turned and self.fork is None and self.run.step == self.plan.begins:
            self.fork = Fork.at(self.run)

    def turn(
        self, validator: Validator, keep: str, losses: int | None, done: Callable[[int], None]
    ) -> Validator:
        """Measure what the first part would keep, and go back to the fork.

        `losses` is the number of steps taken; None in a process that does not decode. Returns the
        validator of the second part.
        """
        if self.fork is None:
            raise ValueError("a trial without a fork")
        if losses is not None:
            kept = validator.choose(keep, done)
            point, heard = validator.hear(self.run.step, done)
            self._weights = self.run.adapter.weights.detach().to("cpu", copy=True)
            self.plain = PlainOutcome(
                kept=kept, point=point, heard=heard, points=validator.taken, losses=losses
            )
        self.fork.restore(self.run, self.plan)
        self.fork, self.turned = None, True
        later = self._make_validator(self.held)
        later.seconds = validator.seconds
        return later

    def settle(
        self, validator: Validator, kept: str, done: Callable[[int], None]
    ) -> tuple[str, AugmentationTrial]:
        """Compare the weights of both parts, and set the better ones.

        `kept` says which ones of the second part are set now. Returns which ones are kept, and how
        the trial ended. At equal rates those without augmentation are kept.
        """
        plain, weights = self.plain, self._weights
        if plain is None or weights is None:
            raise ValueError("a trial without a first part")
        point, heard = validator.hear(self.run.step, done)
        better = validator.rate(point) < validator.rate(plain.point)
        if not better:
            set_weights(self.run, weights)
        lower = difference(
            validator.said,
            plain.heard,
            heard,
            validator.language.primary_metric,
            language=validator.language.code,
            speakers=validator.speakers,
        )
        log.info(
            "augmentation is %s: %s %.1f with it, %.1f without; %.1f points lower (95 %% interval "
            "%.1f to %.1f) on %d held-back clips",
            "kept" if better else "not kept",
            validator.language.primary_metric.upper(),
            validator.rate(point),
            validator.rate(plain.point),
            lower.points,
            *lower.interval,
            len(heard),
        )
        trial = AugmentationTrial(kept=better, plain=plain.point, augmented=point, difference=lower)
        return kept if better else plain.kept, trial

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold besides the state of the validator."""
        found = {} if self.fork is None else self.fork.written()
        return found if self._weights is None else found | {PLAIN: self._weights}

    def restore(self, plain: PlainOutcome | None, tensors: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.fork, self.plain = Fork.read(tensors), plain
        self.turned, self._weights = plain is not None, tensors.get(PLAIN)
