"""When two batches are one: whatever the order, and what became of the corpora since."""

import pytest

from lorajob.tasks import messages
from lorajob.tasks.batches import load_batch, submit_batch
from tests.command import run
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


@pytest.mark.parametrize("languages", ["hi,Hindi", "hi,mr,hi"])
def test_a_language_asked_for_twice_alike_is_refused(env, data, redis, languages):
    corpus = f"{data}/{{language}}.tsv"
    done = run("submit", "--lang", languages, "--corpus", corpus, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lorajob: language: hi is there twice, with the same settings\n"
    assert redis.keys("lorajob:*") == []
