"""Forecasts the time of an evaluation, before its first clip is decoded."""

import logging

from lorajob.job.report import PassProgress
from lorajob.spec import JobSpec

# Time of faster-whisper's defaults for a clip, in times of the fast decoder on one core: 1.14
# against 0.12 CPU seconds for clips of under 8 s. With a model that loops it is more.
SLOWER = 10
MINUTE = 60.0

log = logging.getLogger(__name__)


def expect_passes(
    spec: JobSpec, clips: int, sample: int, pace: PassProgress, seconds: float, workers: int
) -> None:
    """Forecast all passes of an evaluation, and show them in the progress and in the log.

    `clips` take the fast decoder `seconds`, with `workers` threads or GPUs. faster-whisper decodes
    `sample` of them, one at a time.
    """
    one = seconds / max(1, clips) * workers * SLOWER
    fewer = spec.evaluate.base_clips
    users, base = one * sample, one * (min(sample, fewer) if isinstance(fewer, int) else sample)
    if (minutes := spec.evaluate.delivered_minutes) is not None:
        users, base = (min(it, minutes * MINUTE / 2) for it in (users, base))
    gate = users if spec.gate.check else 0.0
    if spec.gate.minutes is not None:
        gate = min(gate, spec.gate.minutes * MINUTE)
    pace.expect({"tuned": seconds, "delivered": users, "base": base, "gate": gate})
    log.info(
        "%d test clips: about %.0f min, of these %.0f min by the fast decoder",
        clips,
        sum(pace.expected.values()) / MINUTE,
        seconds / MINUTE,
    )
