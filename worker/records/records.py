"""Job records: the truth about every job, in Redis and copied to job.json beside its files.

A record is one hash that never expires. A sorted set lists all records by creation time. Every
change of state is one function of transitions.lua, so that two deliveries of one message never both
run a stage: a claim raises the attempt's number and stores a random owner token, and Redis refuses
a caller with another number or owner.
"""

import json
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from redis import Redis
from redis.exceptions import ResponseError, WatchError

from lorajob.errors import JobNotFoundError, RecordError
from lorajob.job.jobdir import JOB_ID, STAGES
from lorajob.job.report import Progress
from lorajob.job.results import StageResult
from lorajob.job.states import ENDED
from lorajob.storage.store import StoreError
from lorajob.worker.queues import LANES
from lorajob.worker.records import notices, transitions
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.standing import FIELDS, Standing, standing_of

INDEX = "lorajob:jobs"
QUEUED = "lorajob:queued"  # sorted set: the jobs that wait, by the time they started to wait
RUNNING = "lorajob:running"  # sorted set: the jobs that run, by the end of their lease
LATER = "lorajob:later"  # sorted set: the jobs that wait for a retry, by its time
LONGEST_PAUSE_SECONDS = 900.0  # between two attempts, as in transitions.lua
LONGEST_DECLINE_SECONDS = 60.0  # until a job that is too new for a worker is sent again
DAMAGED = "lorajob:damaged"  # hash: the jobs that were set aside -> why
PAGE = 500  # records read at a time
Settled = Literal["settled", "stopped", "superseded"]
LeaseAnswer = Literal["held", "cancelled", "superseded", "forgotten"]
Requeued = Literal["queued", "later", "cancelled", "failed", "superseded"]
Expired = Literal["queued", "cancelled", "failed", "held"]

PlaceOf = Callable[[str, str], str]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """The right to run one stage, until a later claim supersedes it."""

    job_id: str
    stage: str
    attempt: int  # the number of the claim, higher than that of every earlier one of the stage
    owner: str


@dataclass(frozen=True)
class Refusal:
    """Why a stage must not run now: succeeded, failed, cancelled, held, early or unknown.

    `later`: its retry is not due yet. `avoided`: it failed on this worker, and another goes first.
    """

    reason: str


@dataclass(frozen=True)
class Fault:
    """The kind of a failure that the job did not cause, and when the next attempt may start.

    `first` and `longest` limit the pause in seconds, which doubles with each failure; a `gentle`
    kind has no first pause. For `offer` seconds other workers than the one that failed go first;
    None: all may. `fit` are the workers that serve the job's queue.
    """

    kind: str = "lost"
    first: float = 0.0
    longest: float = 0.0
    gentle: bool = True
    offer: float | None = None
    fit: tuple[str, ...] = ()

    def as_json(self) -> str:
        return json.dumps({k: v for k, v in asdict(self).items() if v is not None})


class Records:
    """The job records in one Redis (which must decode responses)."""

    def __init__(self, redis: Redis, place: PlaceOf | None = None) -> None:
        """`place` gives the folder or url of a job, by its id and what its record states.

        Without it the record is believed, which is only for tests and for showing a record.
        """
        self._redis = redis
        self._place = place
        self._script = transitions.register(redis)

    def create(self, record: JobRecord) -> JobRecord | None:
        """Store a new record and its job.json, and return it with the lane of its batch or user.

        Returns None and changes nothing if a record of that id exists.
        """
        at = record.standing
        place = (at.active and at.stage_state) or ""
        lease = (at.stage and record.stages[at.stage].lease) or 0
        fields = [word for field in record.to_hash().items() for word in field]
        lane = self._run("create", record.id, LANES, record.created_at, place, lease, *fields)
        if lane is None:
            return None
        self.mirror(record.id)
        return record.model_copy(update={"lane": lane})

    def delete(self, job_id: str) -> None:
        """Delete a record. The caller removes its files."""
        self._run("delete", job_id)

    def forget(self, job_id: str) -> bool:
        """As `delete`, for an ended job. Returns False and changes nothing for any other job."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(record_key(job_id))  # type: ignore[no-untyped-call]  # redis-py has no types for it
            if cast("str | None", pipe.hget(record_key(job_id), "state")) not in ENDED:
                return False
            pipe.multi()
            pipe.delete(record_key(job_id))
            pipe.zrem(INDEX, job_id)
            try:
                pipe.execute()
            except WatchError:  # the record changed meanwhile
                return False
        return True

    def load(self, job_id: str) -> JobRecord:
        """The record of that id. Raises JobNotFoundError, and RecordError if it is damaged."""
        try:
            fields = cast("dict[str, str]", self._redis.hgetall(record_key(job_id)))
        except ResponseError as error:
            raise _damaged(job_id, error) from None
        if not fields:
            raise _unknown(job_id)
        return self._placed(JobRecord.from_hash(fields))

    def known(self, job_id: str) -> bool:
        """Whether a record of that id exists."""
        return bool(self._redis.exists(record_key(job_id)))

    def ids(self) -> list[str]:
        """The ids of all jobs, newest first."""
        return cast("list[str]", self._redis.zrevrange(INDEX, 0, -1))

    def ids_from(self, start: int, count: int, since: float | None = None) -> list[str]:
        """`count` ids from place `start` on, newest first, of jobs that were made `since` then."""
        least = "-inf" if since is None else since
        found = self._redis.zrevrangebyscore(INDEX, "+inf", least, start=start, num=count)
        return cast("list[str]", found)

    def newest(self, limit: int = 20) -> list[JobRecord]:
        """The newest `limit` records, newest first."""
        return self.load_many(self.ids_from(0, limit))

    def load_many(self, ids: Sequence[str]) -> list[JobRecord]:
        """The records of `ids`, in their order. Unknown and damaged ones are left out."""
        records = []
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in page:
                    pipe.hgetall(record_key(job_id))
                answers = pipe.execute(raise_on_error=False)
            for job_id, fields in zip(page, answers, strict=True):
                try:
                    if isinstance(fields, ResponseError):
                        raise _damaged(job_id, fields)
                    if fields:
                        records.append(self._placed(JobRecord.from_hash(fields)))
                except RecordError as error:
                    logger.warning("%s", error)
        return records

    def standings(self, ids: Sequence[str]) -> dict[str, Standing]:
        """The standings of the jobs of `ids`, read from a few fields. Unknown ids are left out."""
        found: dict[str, Standing] = {}
        for start in range(0, len(ids), PAGE):
            page = ids[start : start + PAGE]
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in page:
                    pipe.hmget(record_key(job_id), FIELDS)
                answers = pipe.execute(raise_on_error=False)
            for job_id, values in zip(page, answers, strict=True):
                try:
                    if isinstance(values, ResponseError):
                        raise _damaged(job_id, values)
                    if (at := standing_of(values)) is not None:
                        found[job_id] = at
                except (RecordError, ValueError) as error:
                    logger.debug("%s is left out: %s", job_id, error)
        return found

    def claim(
        self,
        job_id: str,
        stage: str,
        worker: str,
        lease_seconds: float,
        max_losses: int,
        owner: str | None = None,
        known_attempt: int = 0,
        fit: Sequence[str] = (),
        pause_seconds: float = 5.0,
    ) -> Claim | Refusal:
        """Take a queued stage, or one whose lease ran out.

        If an expired lease makes `max_losses` in a row, the stage fails instead. With an `owner`
        the call can be repeated safely. `known_attempt` is the number of the last attempt that left
        files; the new number is higher, even if the stage was run by hand. A worker on which the
        stage has just failed is refused while one of `fit`, the workers that serve its queue, is
        another; the job is then sent again after `pause_seconds`.

        If the files are in a store, the owner writes job.json later, because a store that hangs
        could outlast the lease here.
        """
        owner = owner or secrets.token_hex(16)
        earlier = STAGES[: STAGES.index(stage)]
        previous = earlier[-1] if earlier else ""
        answer = self._run(
            "claim",
            job_id,
            stage,
            previous,
            owner,
            worker,
            lease_seconds,
            max_losses,
            known_attempt,
            json.dumps(list(fit)),
            pause_seconds,
        )
        if answer[0] != "claimed":
            self.mirror_known(job_id)
            return Refusal(answer[0])
        if not self.load(job_id).location.remote:
            self.mirror(job_id)
        return Claim(job_id, stage, answer[1], owner)

    def touch(
        self,
        claim: Claim,
        progress: Progress | None = None,
        lease_seconds: float = 0,
    ) -> LeaseAnswer:
        """Write progress and renew the lease, if given. Returns whether to continue.

        An expired lease is renewed unless the stage has a later claim. Progress with a newer
        `checkpoint` sets the number of losses in a row to 0. An older checkpoint is stored too: the
        stage had to continue from it.
        """
        text = "" if progress is None else json.dumps(progress.model_dump(mode="json"))
        saved = None if progress is None else progress.checkpoint
        checkpoint = "" if saved is None else saved
        answer = self._by_owner("touch", claim, text, checkpoint, lease_seconds)
        return cast(LeaseAnswer, answer)

    def commit(self, claim: Claim, result: StageResult) -> Settled:
        """The stage succeeded, and its files are committed; the next stage is queued.

        `stopped`: the job was cancelled, too.
        """
        return self._end(claim, "succeeded", json.dumps(result.as_json(), ensure_ascii=False))

    def fail(self, claim: Claim, message: str) -> bool:
        """The stage failed, and the job with it. False if the claim is superseded."""
        return self._end(claim, "failed", message) == "settled"

    def cancelled(self, claim: Claim) -> bool:
        """The stage, and the job with it, ended because of a cancel."""
        return self._end(claim, "cancelled") == "settled"

    def release(self, claim: Claim, why: str) -> bool:
        """Give an unfinished stage back. It is queued again, or cancelled after a cancel."""
        return self._end(claim, "queued", why) == "settled"

    def fail_retryable(
        self,
        claim: Claim,
        why: str,
        max_losses: int,
        memory_class: int = 0,
        fault: Fault = Fault(),
    ) -> Requeued:
        """The attempt failed for a reason that the job did not cause, so its stage is queued again.

        The stage fails if this makes `max_losses` of its kind in a row without a new checkpoint.
        `later`: the reconciler sends the job when the retry is due. `superseded`: a later claim has
        the stage. A larger `memory_class` in GB replaces the job's.
        """
        answer = self._by_owner(
            "fail_retryable", claim, why, max_losses, memory_class, fault.as_json()
        )
        if answer != "superseded":
            self.mirror(claim.job_id)
        return cast(Requeued, answer)

    def expire(self, job_id: str, max_losses: int) -> Expired:
        """As `fail_retryable`, for a job whose lease ran out; `held` if it did not."""
        answer = self._run("expire", job_id, max_losses, *STAGES)
        if answer != "held":
            self.mirror(job_id)
        return cast(Expired, answer)

    def unserved(self, job_id: str, kind: str, why: str, limit: int, first: float) -> str:
        """A retry is due and no worker is fit for it: counts as another failure of that kind.

        Returns later, failed, or held if the job does not wait after a failure.
        """
        answer = str(self._run("unserved", job_id, kind, why, limit, first, *STAGES))
        if answer != "held":
            self.mirror(job_id)
        return answer

    def decline(self, job_id: str, version: int, first: float) -> str:
        """The job's format, at least `version`, is too new for a worker: it waits `first` seconds,
        each time twice as long. Returns later, or held if it does not wait.
        """
        longest = max(first, LONGEST_DECLINE_SECONDS)
        return str(self._run("decline", job_id, version, first, longest, *STAGES))

    def expired(self, limit: int, lease_seconds: float = 90.0) -> list[str]:
        """The jobs whose lease ran out, the longest ago first.

        Includes leases of more than twice `lease_seconds`, which a step back of Redis's clock
        leaves behind; `expire` decides.
        """
        return cast("list[str]", self._run("due", "", RUNNING, 0, limit, 2 * lease_seconds))

    def overdue(self, seconds: float, limit: int) -> list[str]:
        """The jobs that have waited in the queue for `seconds`, the longest first."""
        ahead = LONGEST_PAUSE_SECONDS + seconds
        return cast("list[str]", self._run("due", "", QUEUED, seconds, limit, ahead))

    def retries_due(self, limit: int) -> list[str]:
        """The jobs whose retry is due, the longest first."""
        return cast("list[str]", self._run("due", "", LATER, 0, limit, LONGEST_PAUSE_SECONDS))

    def queued(self) -> int:
        """How many jobs wait in the queue."""
        return int(self._redis.zcard(QUEUED))

    def active(self, limit: int) -> list[str]:
        """Some jobs that wait or run, the ones that wait longest first."""
        waiting = cast("list[str]", self._redis.zrange(QUEUED, 0, limit - 1))
        return waiting + cast("list[str]", self._redis.zrange(RUNNING, 0, limit - 1))

    def wait_anew(self, *ids: str) -> None:
        """Restart the time that queued jobs have waited."""
        for start in range(0, len(ids), PAGE):
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in ids[start : start + PAGE]:
                    self._run("wait_anew", job_id, client=pipe)
                pipe.execute()

    def set_aside(self, job_id: str, why: str) -> None:
        """Take a job with a damaged record out of the sorted sets of waiting and running jobs."""
        self._redis.hset(DAMAGED, job_id, why)
        for index in (QUEUED, RUNNING, LATER):
            self._redis.zrem(index, job_id)

    def damaged(self) -> dict[str, str]:
        """The jobs that were set aside because their records are damaged, and why."""
        found = cast("dict[str, str]", self._redis.hgetall(DAMAGED))
        return {job_id: why for job_id, why in found.items() if self.known(job_id)}

    def cancel(self, job_id: str) -> str:
        """Cancel a job.

        Returns `cancelled` if no stage ran, `cancelling` if its worker will stop it, or the state
        in which the job had ended before. Raises JobNotFoundError.
        """
        return self._ask("cancel", job_id, *STAGES)

    def retry(self, job_id: str) -> str:
        """Queue the unfinished stages of a failed, rejected or cancelled job again.

        Returns `retried`, or the state that forbids it. Raises JobNotFoundError.
        """
        return self._ask("retry", job_id, LANES, *STAGES)

    def mirror(self, job_id: str) -> None:
        """Write job.json. An error, such as a full disk, is only logged."""
        revision = None
        while (record := self.load(job_id)).revision != revision:
            revision = record.revision  # checked again after the write: another may be slower
            try:
                record.save()
            except (OSError, StoreError) as error:
                logger.warning("%s: job.json cannot be written: %s", job_id, error)
                return

    def mirror_known(self, job_id: str) -> None:
        """As `mirror`, unless there is no record any more."""
        try:
            self.mirror(job_id)
        except JobNotFoundError:
            return  # the job was withdrawn after its message was sent

    def _placed(self, record: JobRecord) -> JobRecord:
        """The record with the folder that follows from the settings. A forged one is not obeyed."""
        if self._place is None or not JOB_ID.fullmatch(record.id):
            return record
        return record.model_copy(update={"folder": self._place(record.id, record.folder)})

    def _end(self, claim: Claim, state: str, payload: str = "") -> Settled:
        later = STAGES[STAGES.index(claim.stage) + 1 :]
        following = later[0] if later else ""
        answer = self._by_owner("settle", claim, following, state, payload)
        if answer != "superseded":
            self.mirror(claim.job_id)
        return cast(Settled, answer)

    def _ask(self, transition: str, job_id: str, *args: str | float) -> str:
        answer = str(self._run(transition, job_id, *args))
        if answer == "unknown":
            raise _unknown(job_id)
        self.mirror(job_id)
        return answer

    def _by_owner(self, transition: str, claim: Claim, *args: str | float) -> Any:
        """Run a transition that Redis refuses once another claim has the stage."""
        return self._run(transition, claim.job_id, claim.stage, claim.attempt, claim.owner, *args)

    def _run(
        self, transition: str, job_id: str, *args: str | float, client: Redis | None = None
    ) -> Any:
        """Run a function of transitions.lua. `due` has no job. `client` may be a pipeline."""
        keys = [QUEUED, RUNNING, INDEX, notices.KEY, notices.WANTED]
        keys += [record_key(job_id)] if job_id else []
        return self._script(keys, [transition, job_id, *args], client=client)


def record_key(job_id: str) -> str:
    """The key of a record's hash."""
    return f"lorajob:job:{job_id}"


def _damaged(job_id: str, error: ResponseError) -> RecordError:
    return RecordError(f"the record of {job_id!r} is damaged: {error}")


def _unknown(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"job: {job_id!r} is unknown; `lorajob status` lists the jobs")
