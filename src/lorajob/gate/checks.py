"""Runs all guards of a job, in the order of their cost, within `gate.minutes`."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from lorajob.gate.conversion import CONVERSION
from lorajob.gate.hearing import Clock, Hearing, TimeOver
from lorajob.gate.noises import check_noise
from lorajob.gate.texts import (
    Transcripts,
    check_loops,
    check_own_clips,
    check_rate,
    not_checked,
)
from lorajob.job.results import Guard
from lorajob.spec import GateConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """The delivered model and its base, and what was heard of both so far."""

    tuned: Hearing
    base: Hearing
    clips: Transcripts


def check_all(config: GateConfig, candidate: Candidate, clock: Clock) -> list[Guard]:
    """The guards of evaluation. Empty if `gate.check` is false."""
    if not config.check:
        return []
    clips, language = candidate.clips, candidate.clips.language
    tuned, base = candidate.tuned, candidate.base
    checks: dict[str, tuple[str, Callable[[float], Guard]]] = {
        "wer": ("max_wer_rise", lambda limit: check_rate(clips, limit)),
        "own_clips": ("min_own_gain", lambda limit: check_own_clips(clips, limit)),
        "loops": ("max_loops", lambda limit: check_loops(clips, limit)),
        "noise": ("max_noise_words", lambda limit: check_noise(language, tuned, base, limit)),
    }
    found = [
        _checked(name, setting, config, check, clock) for name, (setting, check) in checks.items()
    ]
    return [*found, not_checked(CONVERSION, "the stage convert checks it")]


def _checked(
    name: str,
    setting: str,
    config: GateConfig,
    check: Callable[[float], Guard],
    clock: Clock,
) -> Guard:
    limit: float | None = getattr(config, setting)
    if limit is None:
        return not_checked(name, f"gate.{setting} is null")
    started = time.monotonic()
    try:
        found = check(limit)
    except TimeOver:
        return not_checked(name, f"gate.minutes={config.minutes:g} ended")
    guard = found.model_copy(update={"seconds": round(time.monotonic() - started, 2)})
    log.info("gate: %s %s: %s", guard.name, guard.state.replace("_", " "), guard.reason)
    return guard
