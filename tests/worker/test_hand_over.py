"""A job that others should take: the worker that receives it hands the message over."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore
from redis import Redis

from lorajob.errors import LorajobError, UsageError
from lorajob.storage.store import Check, RefusedError, store_errors, unhurried
from lorajob.tasks import stages
from lorajob.tasks.stages import StageFailed
from lorajob.worker.artifacts import transfer
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Fault, Records
from lorajob.worker.settings import Settings
from lorajob.worker.supervision import faults
from lorajob.worker.supervision.outcome import Failed
from tests.support.command import url_of
from tests.support.records import LEASE, LOSSES, claim, create

HERE, THERE = "cpu@here", "cpu@there"


@pytest.fixture
def failed_here(redis: Redis, redis_server: Settings, tmp_path: Any, monkeypatch: Any) -> JobRecord:
    """A job in this machine's queue whose first stage this worker has just failed."""
    monkeypatch.setenv("LORAJOB_REDIS_URL", url_of(redis_server))
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(stages, "HAND_OVER_SECONDS", 0.5)
    monkeypatch.setattr(stages, "open_job", lambda *_: SimpleNamespace(last_attempt=lambda _: 0))
    records = Records(redis)
    job = create(records, tmp_path)
    after = Fault("files", offer=0.001, fit=(HERE, THERE))
    held = claim(records, job)
    assert records.fail_retryable(held, "a broken machine", LOSSES, 0, after) == "queued"
    assert records.load(job.id).stages["preprocess"].avoid == (HERE,)
    return job


def deliver(job: JobRecord) -> None:
    """This worker receives the message of the job's first stage."""
    task: Any = SimpleNamespace(request=SimpleNamespace(hostname=HERE))
    stages.run_claimed_stage(task, job.id, "preprocess")


def test_another_worker_takes_what_this_one_has_failed(
    redis: Redis, failed_here: JobRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(redis)

    def taken(record: JobRecord, settings: Settings) -> None:
        records.claim(record.id, "preprocess", THERE, LEASE, LOSSES)

    monkeypatch.setattr(stages.health, "serving", lambda *_: [HERE, THERE])
    monkeypatch.setattr(stages, "publish", taken)
    with pytest.raises(Ignore, match="taken"):
        deliver(failed_here)
    found = records.load(failed_here.id).stages["preprocess"]
    assert (found.state, found.worker) == ("running", THERE)


@pytest.mark.parametrize(("fit", "sent"), [([HERE], 0), ([HERE, THERE], 1)])
def test_a_worker_whose_job_no_other_takes_claims_it_itself(
    redis: Redis,
    failed_here: JobRecord,
    monkeypatch: pytest.MonkeyPatch,
    fit: list[str],
    sent: int,
) -> None:
    published: list[str] = []
    monkeypatch.setattr(stages.health, "serving", lambda *_: fit)
    monkeypatch.setattr(stages, "publish", lambda record, _: published.append(record.id))

    def claims(*_: object) -> None:
        raise Ignore("claims it itself")

    monkeypatch.setattr(stages, "claim_stage", claims)
    with pytest.raises(Ignore, match="claims it itself"):
        deliver(failed_here)
    assert published == [failed_here.id] * sent


@pytest.mark.parametrize("kind", ["base", "damage"])
def test_what_one_machine_alone_may_find_is_the_jobs_own_once_all_have_found_it(
    redis: Redis, redis_server: Settings, tmp_path: Any, monkeypatch: Any, kind: str
) -> None:
    """Its base model, or its store, may be another one than those of the others."""
    monkeypatch.setattr(stages.health, "serving", lambda *_: [HERE, THERE])
    monkeypatch.setattr(stages, "publish", lambda *_: None)
    records = Records(redis)
    job = create(records, tmp_path)
    found = Failed(kind, "base_model: x is another model")
    with pytest.raises(Ignore, match="queued"):
        stages.settle(records, claim(records, job, worker=HERE), found, HERE, redis_server)
    at = records.load(job.id).stages["preprocess"]
    assert (at.state, at.avoid) == ("queued", (HERE,))
    with pytest.raises(StageFailed, match="is another model"):
        stages.settle(records, claim(records, job, worker=THERE), found, THERE, redis_server)
    assert records.load(job.id).error == found.message
    # With one worker it is the job's own at once.
    monkeypatch.setattr(stages.health, "serving", lambda *_: [HERE])
    alone = create(records, tmp_path)
    with pytest.raises(StageFailed):
        stages.settle(records, claim(records, alone, worker=HERE), found, HERE, redis_server)
    assert records.load(alone.id).state == "failed"


def test_a_store_that_refuses_a_machine_is_asked_three_times_and_then_by_another(
    redis_server: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(transfer, "LONGEST_PAUSE_SECONDS", 0.0)

    def refused(_: Check) -> None:
        asked.append(1)
        with store_errors("s3://bucket/jobs"):
            raise PermissionError("The AWS Access Key Id you provided does not exist")

    with pytest.raises(RefusedError, match="s3://bucket/jobs is unavailable: The AWS") as told:
        transfer.retry_store(refused, unhurried, transfer.REFUSED_TRIES)
    assert len(asked) == 3
    outcome = transfer.failed_transfer(told.value)
    loss = faults.loss_of(outcome, redis_server)
    assert isinstance(loss, faults.Loss) and loss.kind == "refused"
    after = faults.fault(loss.kind, redis_server, [HERE, THERE])
    assert after.offer == redis_server.lease_seconds
    # A file that was uploaded before is not given up so soon.
    asked.clear()
    monkeypatch.setattr(transfer, "TRIES", 10)
    with pytest.raises(RefusedError):
        transfer.retry_store(refused, unhurried, 10)
    assert len(asked) == 10


def test_a_worker_that_lacks_a_package_or_memory_does_not_fail_the_job(
    redis_server: Settings,
) -> None:
    for cause, kind in ((ImportError("s3fs"), "install"), (MemoryError(), "memory")):
        try:
            with store_errors("s3://bucket/cv.tar.gz"):
                raise cause
        except LorajobError as error:
            outcome = transfer.failed_transfer(error)
        except MemoryError as error:
            wrapped = UsageError("corpus: s3://bucket/cv.tar.gz cannot be read")
            wrapped.__context__ = error
            outcome = transfer.failed_transfer(wrapped)
        assert outcome.kind == kind
        assert faults.loss_of(outcome, redis_server) != "own"


@pytest.mark.parametrize("damage", ["wrong type", "field"])
def test_a_message_of_a_damaged_record_is_passed_over_in_one_line(
    redis: Redis, failed_here: JobRecord, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    key = f"lorajob:job:{failed_here.id}"
    if damage == "wrong type":
        redis.delete(key)
        redis.set(key, "a string")
    else:
        redis.hset(key, "preprocess.fence", "many")
    with pytest.raises(Ignore, match="damaged"):
        deliver(failed_here)
    (said,) = (it.getMessage() for it in caplog.records if it.levelname == "ERROR")
    assert said.startswith(f"{failed_here.id} is not run: the record of '{failed_here.id}' is dam")
    if damage == "field":
        assert said.endswith(
            "stages.preprocess.fence: Input should be a valid integer, unable to "
            "parse string as an integer"
        )
