"""Guards on what a job costs on this machine: the speed of its model, and the memory.

Without a threshold the figures are only reported. The memory is the peak of the whole process of
the stage. That includes the conversion, lorajob's decoder, the base model and the guards, so the
delivered model alone takes less.
"""

import resource

from lorajob.gate.texts import not_checked
from lorajob.job.results import Guard, GuardState
from lorajob.spec_gate import GateConfig


def check_cost(
    config: GateConfig, sound_seconds: float, took_seconds: float, together: bool = False
) -> list[Guard]:
    """How fast faster-whisper decoded test clips, and the peak memory of this process.

    `took_seconds` is the time of transcribing alone. A speed that was measured `together` with the
    base model, on half of the threads, is not compared with a limit.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        _speed(config.min_speed, sound_seconds, took_seconds, together),
        _memory(config.max_memory_gb, peak / 1e9),
    ]


def _speed(limit: float | None, sound_seconds: float, took_seconds: float, together: bool) -> Guard:
    if not sound_seconds:
        return not_checked("speed", "no test clip was decoded")
    beside = " beside the base model on half of the threads" if together else ""
    if together and limit is not None:
        return not_checked("speed", f"the test clips were decoded{beside}")
    speed = sound_seconds / max(took_seconds, 0.01)
    needed = "" if limit is None else f", {speed:.3g} times real time; at least {limit:g} is needed"
    return Guard(
        name="speed",
        state=_state(limit, limit is not None and speed < limit),
        reason=f"faster-whisper decoded {sound_seconds:.0f} s of test clips in "
        f"{took_seconds:.0f} s here{beside}{needed}",
        value=speed,
        limit=limit,
        unit="times real time",
    )


def _memory(limit: float | None, gigabytes: float) -> Guard:
    allowed = "" if limit is None else f"; at most {limit:g} GB are allowed"
    return Guard(
        name="memory",
        state=_state(limit, limit is not None and gigabytes > limit),
        reason=f"peak memory of the whole stage, with conversion, base and guards, "
        f"{gigabytes:.1f} GB{allowed}",
        value=gigabytes,
        limit=limit,
        unit="GB",
    )


def _state(limit: float | None, failed: bool) -> GuardState:
    if limit is None:
        return "reported"
    return "failed" if failed else "passed"
