"""A job that others should take: the worker that receives it hands the message over."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore
from redis import Redis

from lorajob.tasks import stages
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Fault, Records
from lorajob.worker.settings import Settings
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
