"""Records of jobs in a real Redis: made, claimed and finished."""

import itertools
import time

import pytest

from lorajob.job.results import StageResult
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Claim, Records

LEASE = 90.0
LOSSES = 3
numbers = itertools.count()


@pytest.fixture
def records(redis) -> Records:
    return Records(redis)


@pytest.fixture
def job(records, tmp_path) -> JobRecord:
    return create(records, tmp_path)


def create(records, folder, created_at=None) -> JobRecord:
    job_id = f"hi-{next(numbers):08x}"
    record = JobRecord(
        id=job_id,
        language="hi",
        created_at=created_at or time.time(),
        corpus="/corpus",
        base_model="demo/whisper-base",
        folder=str(folder / job_id),
        stages=new_stages(),
    )
    records.create(record)
    return record


def claim(records, job, stage="preprocess", lease=LEASE, worker="cpu@here") -> Claim:
    claimed = records.claim(job.id, stage, worker, lease, LOSSES)
    assert isinstance(claimed, Claim)
    return claimed


def finish(records, job, *stages) -> None:
    for stage in stages:
        assert records.commit(claim(records, job, stage), StageResult(stage=stage)) == "settled"
