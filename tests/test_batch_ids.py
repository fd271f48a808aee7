"""When two batches are one: whatever the order, and what became of the corpora since."""

import threading
import time

import pytest

from lorajob.cli import batch_views
from lorajob.tasks import messages
from lorajob.tasks.batches import load_batch, submit_batch
from lorajob.worker.batches import Batch, Batches
from tests.command import run, succeeded_record
from tests.test_batches import data, env, pipeline, specs

__all__ = ["data", "env", "pipeline"]


def test_the_same_batch_in_another_order_is_the_same(pipeline, data, redis):
    twice = [*specs(data, "hi", "mr"), *specs(data, "hi", seed=1)]  # one of them for two seeds
    batch = submit_batch(pipeline, twice).batch
    again = submit_batch(pipeline, twice[::-1])
    assert (again.batch, again.queued, messages.waiting(redis)) == (batch, 0, 3)
    seeds = [record.language for record in load_batch(pipeline, batch.id)[1]]
    assert seeds == ["hi", "mr", "hi"]


def test_the_same_batch_after_its_corpora_were_deleted_is_the_same(pipeline, data, redis):
    wanted = specs(data, "hi", "mr")
    batch = submit_batch(pipeline, wanted).batch
    for path in data.iterdir():
        path.unlink()
    for lose in (lambda: None, redis.flushall):  # and with records that Redis has lost
        lose()
        again = submit_batch(pipeline, wanted)
        assert (again.batch.id, again.batch.jobs, again.rejected) == (batch.id, batch.jobs, {})


def test_who_follows_a_batch_waits_for_jobs_that_are_still_to_be_queued(
    pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(batch_views, "POLL_SECONDS", 0.05)
    first, second = (
        succeeded_record(tmp_path, job).model_copy(update={"batch": "batch-1"})
        for job in ("hi-00000001", "mr-00000002")
    )
    made = Batch(id="batch-1", created_at=time.time(), jobs=(first.id, second.id))
    Batches(pipeline.redis).create(made)
    pipeline.records.create(first)
    ended: list[int] = []
    follower = threading.Thread(
        target=lambda: ended.append(batch_views.follow_batch(pipeline, made.id))
    )
    follower.start()
    follower.join(timeout=1)
    early = list(ended)
    pipeline.records.create(second)
    follower.join(timeout=20)
    assert (early, ended) == ([], [0])


def test_a_submission_that_was_cut_short_is_not_followed_for_ever(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_views, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(batch_views, "SUBMISSION_SECONDS", 0.2)
    made = Batch(id="batch-1", created_at=time.time(), jobs=("hi-00000001",))
    Batches(pipeline.redis).create(made)
    assert batch_views.follow_batch(pipeline, made.id) == 1


@pytest.mark.parametrize("languages", ["hi,Hindi", "hi,mr,hi"])
def test_a_language_asked_for_twice_alike_is_refused(env, data, redis, languages):
    corpus = f"{data}/{{language}}.tsv"
    done = run("submit", "--lang", languages, "--corpus", corpus, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lorajob: language: hi is there twice, with the same settings\n"
    assert redis.keys("lorajob:*") == []
