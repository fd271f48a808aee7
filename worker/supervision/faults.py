"""Which failures are the job's own, and how often and how soon the others are tried again."""

import signal
from dataclasses import dataclass
from typing import Literal

from lorajob.errors import JOBS_OWN
from lorajob.worker.records.records import LONGEST_PAUSE_SECONDS, Fault
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.outcome import Crashed, Failed, Outcome, Stopped

LONGEST_OUTAGE_PAUSE_SECONDS = 300.0
# Signals that come from outside: the kernel out of memory, an operator, a machine that stops.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# kinds of faults that say nothing of the machine
LOST = ("lost", "memory", "stalled", "superseded", "retryable")
OUTAGES = ("network", "store", "service")
REFUSED = "refused"  # by the store: as long as an outage, but another machine may have the key
CRASHES = ("crash", "native")


@dataclass(frozen=True)
class Loss:
    """A failure that the job did not cause: its kind and one sentence."""

    kind: str
    why: str


def loss_of(outcome: Outcome, settings: Settings) -> Loss | Literal["own"] | None:
    """The loss that an outcome is; "own" if the job caused it; None if it is no failure."""
    match outcome:
        case Stopped(reason="stalled"):
            return Loss(
                "stalled", f"no step for {settings.stall_timeout:g} s (LORAJOB_STALL_TIMEOUT)"
            )
        case Crashed(returncode=code, message=message) if code < 0:
            return Loss("lost" if -code in FROM_OUTSIDE else "native", message)
        case Crashed(message=message):
            return Loss("crash", message)
        case Failed(kind=kind, message=message):
            return "own" if kind in JOBS_OWN else Loss(kind, message)
    return None


def limit_of(kind: str, settings: Settings) -> int:
    """How many attempts in a row may end so before the job fails."""
    if kind in LOST:
        return settings.max_losses
    if kind in (*OUTAGES, REFUSED):
        return settings.max_outages
    return settings.max_crashes if kind in CRASHES else settings.max_faults


def first_pause(settings: Settings) -> float:
    """Seconds until a worker that must not have a stage may be asked again."""
    return min(settings.retry_seconds, settings.lease_seconds / 3)


def fault(kind: str, settings: Settings, fit: list[str]) -> Fault:
    """When the next attempt may start. `fit` are the workers that serve the job's queue."""
    longest = {
        **dict.fromkeys(LOST, settings.lease_seconds),
        **dict.fromkeys((*OUTAGES, REFUSED), LONGEST_OUTAGE_PAUSE_SECONDS),
    }
    return Fault(
        kind,
        first=settings.retry_seconds,
        longest=longest.get(kind, LONGEST_PAUSE_SECONDS),
        gentle=kind in LOST,
        # Another machine meets the same outage.
        offer=None if kind in OUTAGES else settings.lease_seconds,
        fit=tuple(fit),
    )
