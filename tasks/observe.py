"""What is told of an attempt beside its record: counts, a span of its job's trace, log fields."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lorajob import logs
from lorajob.worker.connect import connect
from lorajob.worker.monitoring import tallies, traces
from lorajob.worker.queues import QUEUES
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Claim
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.outcome import Committed, Crashed, Failed, Outcome, Stopped


@dataclass
class Attempt:
    """An attempt that is under way; `outcome` is set when its stage has ended."""

    outcome: Outcome | None = None


@contextmanager
def observed(record: JobRecord, claim: Claim, worker: str, settings: Settings) -> Iterator[Attempt]:
    """Tell of the attempt that the block makes. `record` is as it was before the claim."""
    stage, began, clock = claim.stage, time.time(), time.monotonic()
    redis = connect(settings)  # not a patient one: what is only counted must not wait
    if record.stages[stage].state == "running":
        tallies.lease_lost(redis)  # this claim took it from an owner who was silent
    else:
        tallies.waited(redis, QUEUES[stage], began - tallies.waiting_since(record, stage))
    seen = Attempt()
    with logs.bound(job=claim.job_id, stage=stage, attempt=claim.fence, worker=worker):
        try:
            yield seen
        finally:
            name = outcome_name(seen.outcome)
            tallies.attempted(redis, stage, name, time.monotonic() - clock)
            traces.tell_attempt(record, claim, worker, name, began)


def outcome_name(outcome: Outcome | None) -> str:
    """One word: committed, crashed, a kind of error, or why it was stopped."""
    match outcome:
        case Committed():
            return "committed"
        case Failed(kind=kind):
            return kind
        case Stopped(reason=reason):
            return reason
        case Crashed():
            return "crashed"
    return "unknown"
