"""Job records: the truth about every job, in Redis and mirrored to job.json beside its files.

A record is one hash, never expiring; a sorted set by creation time lists them, newest first. Every
change of state is one Lua script (scripts.py), so that two deliveries of the same message can
never both run a stage: who claims it raises its fence and leaves a random owner token, and whoever
comes with another fence or owner is refused.
"""

import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict
from redis import Redis

from lorajob.errors import JobNotFoundError
from lorajob.jobdir import STAGES, JobDir, write_json
from lorajob.worker import scripts

INDEX = "lorajob:jobs"
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "rejected"]
StageState = Literal["queued", "waiting", "running", "succeeded", "failed", "cancelled"]
Arguments = list[str | int | float]
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "cancelled", "rejected")

logger = logging.getLogger(__name__)


class StageRecord(BaseModel):
    """One stage of a job. Times are seconds since the epoch, by Redis's clock."""

    model_config = ConfigDict(frozen=True)

    state: StageState = "waiting"  # waiting: an earlier stage comes first
    attempts: int = 0
    worker: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    progress: dict[str, Any] | None = None  # step, total, eta_seconds, loss, ... as the stage says
    result: dict[str, Any] | None = None
    error: str | None = None
    fence: int = 0  # raised by every claim; also the number of the attempt
    owner: str | None = None
    lease: float | None = None  # until when the owner may be taken to live


class JobRecord(BaseModel):
    """One job: what was asked for and how far it is."""

    model_config = ConfigDict(frozen=True)

    id: str
    language: str
    state: JobState = "queued"
    created_at: float  # seconds since the epoch
    corpus: str
    base_model: str
    folder: str
    error: str | None = None
    cancel_requested: bool = False
    revision: int = 0  # raised by every change of state
    stages: dict[str, StageRecord]

    @property
    def ended(self) -> bool:
        """True when nothing more will happen by itself."""
        return self.state in ENDED

    @property
    def missing(self) -> tuple[str, ...]:
        """The stages that have not succeeded, in order."""
        return tuple(name for name in STAGES if self.stages[name].state != "succeeded")

    def save(self) -> None:
        """Write job.json beside the job's files."""
        write_json(JobDir(Path(self.folder)).record_path, self.model_dump(mode="json"))


def new_stages() -> dict[str, StageRecord]:
    """The stages of a job that nothing was done for: the first queued, the others waiting."""
    first, *others = STAGES
    return {first: StageRecord(state="queued")} | {name: StageRecord() for name in others}


@dataclass(frozen=True)
class Claim:
    """The right to run one stage, until a later claim raises the fence."""

    job_id: str
    stage: str
    fence: int
    owner: str


@dataclass(frozen=True)
class Refusal:
    """Why a stage may not be run now: succeeded, failed, cancelled, held, early or unknown."""

    reason: str


class Records:
    """The job records in one Redis (which must decode responses)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(scripts.CLAIM)
        self._touch = redis.register_script(scripts.TOUCH)
        self._settle = redis.register_script(scripts.SETTLE)
        self._cancel = redis.register_script(scripts.CANCEL)
        self._retry = redis.register_script(scripts.RETRY)

    def create(self, record: JobRecord) -> None:
        """Store a new record, or a whole record anew, and its job.json."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_key(record.id))
            pipe.hset(_key(record.id), mapping=_to_hash(record))
            pipe.zadd(INDEX, {record.id: record.created_at})
            pipe.execute()
        self.mirror(record.id)

    def delete(self, job_id: str) -> None:
        """Forget a record; its files are the caller's."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_key(job_id))
            pipe.zrem(INDEX, job_id)
            pipe.execute()

    def load(self, job_id: str) -> JobRecord:
        """Raises JobNotFoundError."""
        fields = cast("dict[str, str]", self._redis.hgetall(_key(job_id)))
        if not fields:
            raise _unknown(job_id)
        return _from_hash(fields)

    def list(self, limit: int = 20) -> list[JobRecord]:
        """The newest `limit` records, newest first."""
        ids = cast("list[str]", self._redis.zrevrange(INDEX, 0, limit - 1))
        with self._redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hgetall(_key(job_id))
            return [_from_hash(fields) for fields in pipe.execute() if fields]

    def claim(
        self, job_id: str, stage: str, worker: str, lease_seconds: float, owner: str | None = None
    ) -> Claim | Refusal:
        """Take a queued stage, or one whose lease ran out. Give `owner` to ask again safely."""
        owner = owner or secrets.token_hex(16)
        earlier = STAGES[: STAGES.index(stage)]
        previous = earlier[-1] if earlier else ""
        answer = self._claim([_key(job_id)], [stage, previous, owner, worker, lease_seconds])
        if answer[0] != "claimed":
            return Refusal(answer[0])
        self.mirror(job_id)
        return Claim(job_id, stage, answer[1], owner)

    def touch(
        self, claim: Claim, progress: dict[str, Any] | None = None, lease_seconds: float = 0
    ) -> Literal["held", "cancelled", "lost"]:
        """Write progress and renew the lease, where given; hear whether to go on.

        An expired lease is renewed as long as nobody else has claimed the stage.
        """
        text = json.dumps(progress) if progress is not None else ""
        args: Arguments = [claim.stage, claim.fence, claim.owner, text, lease_seconds]
        return cast(Literal["held", "cancelled", "lost"], self._touch([_key(claim.job_id)], args))

    def commit(self, claim: Claim, result: dict[str, Any]) -> Literal["settled", "stopped", "lost"]:
        """The stage succeeded; the next is queued. `stopped`: it did, but the job is cancelled."""
        return self._end(claim, "succeeded", json.dumps(result, ensure_ascii=False))

    def fail(self, claim: Claim, message: str) -> bool:
        """The stage failed, and the job with it. False where the claim was lost."""
        return self._end(claim, "failed", message) == "settled"

    def cancelled(self, claim: Claim) -> bool:
        """The stage stopped because of a cancel, and the job with it."""
        return self._end(claim, "cancelled") == "settled"

    def release(self, claim: Claim) -> bool:
        """Give a stage back unfinished: it is queued again (or cancelled, where asked for)."""
        return self._end(claim, "queued") == "settled"

    def cancel(self, job_id: str) -> str:
        """Ask for the end of a job. Returns `cancelled` (nothing ran), `cancelling` (the worker
        will stop it), or the state in which it had ended already. Raises JobNotFoundError.
        """
        return self._ask(self._cancel, job_id)

    def retry(self, job_id: str) -> str:
        """Queue the unfinished stages of a failed or cancelled job again. Returns `retried`, or the
        state that forbids it. Raises JobNotFoundError.
        """
        return self._ask(self._retry, job_id)

    def mirror(self, job_id: str) -> None:
        """Bring job.json up to date; a disk that refuses is only warned about."""
        revision = None
        while (record := self.load(job_id)).revision != revision:
            revision = record.revision  # look again after writing: another writer may be slower
            try:
                record.save()
            except OSError as error:
                logger.warning("%s: job.json cannot be written: %s", job_id, error)
                return

    def _end(
        self, claim: Claim, state: StageState, payload: str = ""
    ) -> Literal["settled", "stopped", "lost"]:
        later = STAGES[STAGES.index(claim.stage) + 1 :]
        following = later[0] if later else ""
        args: Arguments = [claim.stage, following, claim.fence, claim.owner, state, payload]
        answer = self._settle([_key(claim.job_id)], args)
        if answer != "lost":
            self.mirror(claim.job_id)
        return cast(Literal["settled", "stopped", "lost"], answer)

    def _ask(self, script: Any, job_id: str) -> str:
        answer = str(script([_key(job_id)], list(STAGES)))
        if answer == "unknown":
            raise _unknown(job_id)
        self.mirror(job_id)
        return answer


def _key(job_id: str) -> str:
    return f"lorajob:job:{job_id}"


def _unknown(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"job: {job_id!r} is unknown; `lorajob status` lists the jobs")


def _to_hash(record: JobRecord) -> dict[Any, str]:
    """Flat text fields, `train.state` and so on; absent means None."""
    fields = record.model_dump(mode="json", exclude={"stages"}, exclude_none=True)
    fields["cancel_requested"] = int(record.cancel_requested)
    for name, stage in record.stages.items():
        for field, value in stage.model_dump(mode="json", exclude_none=True).items():
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            fields[f"{name}.{field}"] = text
    return {name: str(value) for name, value in fields.items()}


def _from_hash(fields: dict[str, str]) -> JobRecord:
    values: dict[str, Any] = {"stages": {name: {} for name in STAGES}}
    for name, text in fields.items():
        stage, dot, field = name.partition(".")
        if not dot:
            values[name] = text
        elif field in ("progress", "result"):
            values["stages"][stage][field] = json.loads(text)
        else:
            values["stages"][stage][field] = text
    return JobRecord.model_validate(values)
