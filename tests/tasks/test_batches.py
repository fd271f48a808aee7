"""Batches on a real Redis: what is queued, in whose lane, and what becomes of it."""

import errno
import json
from pathlib import Path

import pytest

from lorajob.errors import CorpusError, ServiceError, UsageError
from lorajob.job.jobdir import STAGES, JobDir, hash_file
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.tasks import broker
from lorajob.tasks.batches import load_batch, submit_batch
from lorajob.tasks.describe import state_of
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import prune_all
from lorajob.tasks.rebuild import rebuild
from lorajob.worker.artifacts.job_files import LocalJob
from lorajob.worker.queues import LANES, all_queues, class_of, classes_of, memory_class, queue_name
from tests.support.batches import specs
from tests.support.command import run
from tests.support.records import claim


def test_several_languages_make_one_batch(env, data, redis):
    done = run("submit", "--lang", "hi,Marathi,ta", "--corpus", f"{data}/{{language}}.tsv", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    batch = done.stdout.strip()
    told = json.loads(run("status", batch, "--json", env=env).stdout)
    assert (told["id"], told["state"]) == (batch, "queued")
    assert [job["language"] for job in told["jobs"]] == ["hi", "mr", "ta"]
    assert {job["state"] for job in told["jobs"]} == {"queued"}
    table = run("status", batch, env=env).stdout
    assert "3 jobs: 3 queued" in table
    assert all(job["id"] in table for job in told["jobs"])
    assert broker.waiting(redis) == 3


def test_the_same_batch_again_queues_nothing_twice(env, data, redis):
    fleet = data.parent / "fleet.yaml"
    fleet.write_text(
        "defaults: {corpus: 'data/{language}.tsv', train: {epochs: 2, rank: 8}}\n"
        "languages:\n  hi:\n  mr: {train: {epochs: 5}}\n",
        "utf-8",
    )
    first, again = (run("batch", str(fleet), env=env) for _ in range(2))
    assert first.returncode == again.returncode == 0
    assert first.stdout == again.stdout
    assert "before" in again.stderr
    assert broker.waiting(redis) == 2
    other = run("batch", str(fleet), "--anew", env=env)
    assert other.stdout != first.stdout
    assert broker.waiting(redis) == 4
    told = json.loads(run("status", first.stdout.strip(), "--json", env=env).stdout)
    found = [json.loads(Path(job["artifacts"], "spec.json").read_text()) for job in told["jobs"]]
    assert [(spec["train"]["epochs"], spec["train"]["rank"]) for spec in found] == [(2, 8), (5, 8)]


def test_a_submission_that_was_cut_short_is_completed(jobs, data, redis):
    wanted = specs(data, "hi", "mr", "ta")
    batch = submit_batch(jobs, wanted).batch
    jobs.records.delete(batch.jobs[2])
    again = submit_batch(jobs, wanted)
    assert (again.batch, again.queued) == (batch, 1)
    assert [record.id for record in load_batch(jobs, batch.id)[1]] == list(batch.jobs)


def test_who_comes_second_and_fails_takes_nothing_back_from_the_first(
    jobs, data, redis, monkeypatch
):
    put = LocalJob.put_spec

    def overtaken(files, spec):
        monkeypatch.setattr(LocalJob, "put_spec", put)
        submit_batch(Jobs(jobs.settings), specs(data, "hi", "mr"))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalJob, "put_spec", overtaken)
    with pytest.raises(OSError, match="No space"):
        submit_batch(jobs, specs(data, "hi", "mr"))
    first = submit_batch(jobs, specs(data, "hi", "mr"))
    assert (first.queued, broker.waiting(redis)) == (0, 2)
    assert all((jobs.settings.jobs / job / "spec.json").is_file() for job in first.batch.jobs)


def test_jobs_that_redis_lost_go_on_from_their_files(jobs, data, redis, monkeypatch):
    batch = submit_batch(jobs, specs(data, "hi", "mr")).batch
    job = JobDir(jobs.settings.jobs / batch.jobs[0])
    out = job.new_attempt("preprocess", 1)
    (out / "clips").write_text("hours of work")
    job.commit("preprocess", out, StageResult(train_clips=9))
    redis.flushall()

    def refused(*_: object, **__: object) -> None:
        raise ServiceError("nothing is taken")

    with monkeypatch.context() as patch, pytest.raises(ServiceError):
        patch.setattr("lorajob.tasks.broker._send", refused)
        submit_batch(jobs, specs(data, "hi", "mr"))
    assert (job.stage_dir("preprocess") / "clips").is_file()
    redis.flushall()
    again = submit_batch(jobs, specs(data, "hi", "mr"))
    assert (again.batch.jobs, again.queued) == (batch.jobs, 2)
    first, second = load_batch(jobs, batch.id)[1]
    assert (first.missing[0], second.missing[0]) == ("train", "preprocess")
    assert first.batch == batch.id
    found = broker.deliveries(redis)
    assert found == {("train", first.id), ("preprocess", second.id)}


def test_a_pruned_job_that_is_asked_for_again_is_of_the_batch_again(jobs, data):
    batch = submit_batch(jobs, specs(data, "hi", "mr")).batch
    jobs.cancel(batch.jobs[0])
    assert [record.id for record in prune_all(jobs, -1, "none").jobs] == [batch.jobs[0]]
    assert load_batch(jobs, batch.id)[0].jobs == batch.jobs[1:]
    again = submit_batch(jobs, specs(data, "hi", "mr"))
    assert (sorted(again.batch.jobs), again.queued) == (sorted(batch.jobs), 1)


def test_one_corpus_for_two_languages_is_refused(env, data, redis):
    one = str(data / "hi.tsv")
    for args in (["--corpus", one], ["--set", f"corpus={one}"]):
        done = run("submit", "--lang", "hi,mr", *args, env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "{language}" in done.stderr
    assert redis.keys("lorajob:*") == []


def test_a_language_without_a_corpus_stops_no_other(env, data, redis):
    (data / "mr.tsv").unlink()
    done = run("submit", "--lang", "hi,mr", "--corpus", f"{data}/{{language}}.tsv", env=env)
    assert done.returncode == 0
    assert "rejected" in done.stderr
    batch = done.stdout.strip()
    told = json.loads(run("status", batch, "--json", env=env).stdout)
    assert [job["state"] for job in told["jobs"]] == ["queued", "rejected"]
    assert told["state"] == "queued"
    assert "mr.tsv" in told["jobs"][1]["error"]
    again = run("retry", "--failed", batch, env=env)
    assert again.stdout == f"1 of the jobs of {batch} are queued again\n"
    assert broker.waiting(redis) == 2


def test_a_batch_of_which_no_language_has_a_corpus_is_refused(jobs, data, redis):
    with pytest.raises((CorpusError, UsageError), match=r"te\.tsv"):
        submit_batch(jobs, specs(data, "te", "kn"))
    assert redis.keys("lorajob:*") == []


def test_cancel_and_retry_take_a_batch(env, data, jobs):
    batch = submit_batch(jobs, specs(data, "hi", "mr")).batch
    assert run("cancel", batch.id, env=env).stdout == f"2 of the jobs of {batch.id} are stopping\n"
    assert state_of(load_batch(jobs, batch.id)[1]) == "cancelled"
    refused = run("cancel", batch.id, env=env)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert run("retry", "--failed", batch.id, env=env).returncode == 2
    assert run("retry", batch.id, env=env).returncode == 0
    assert state_of(load_batch(jobs, batch.id)[1]) == "queued"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("languages: []", "languages"),
        ("languages: [hi]\nextras: 1", "extras"),
        ("languages: [xx-klingon]\ndefaults: {corpus: a}", "xx-klingon"),
        ("languages: {hi: 3}", "hi"),
        ("languages:\n  hi: {corpus: a}\n  hi: {corpus: b}", "'hi' is there twice"),
        ("languages: [hi]\ndefaults: {corpus: a, preset: [fast]}", "preset: ['fast']"),
        ("languages: [hi]\ndefaults: {corpus: ~nobody-here/a}", "~nobody-here/a"),
        ("languages: [hi]\ndefaults: {corpus: a, base_model: ~nobody-here/a}", "base_model: '~no"),
        ("languages: [hi]\ndefaults: {corpus: a, train: {epoch: 1}}", "train.epoch"),
        ("languages: {hi: {language: mr}}\ndefaults: {corpus: a}", "hi has `language: mr` in it"),
        ("- hi", "mapping"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_a_wrong_batch_file_is_one_line(env, tmp_path, text, word, redis):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    done = run("batch", str(path), env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert redis.keys("lorajob:*") == []


def test_a_lost_redis_gets_its_batches_back(jobs, data, redis):
    batch = submit_batch(jobs, specs(data, "hi", "mr"), "high").batch
    redis.flushall()
    rebuild(jobs.settings)
    restored, records = load_batch(jobs, batch.id)
    assert sorted(restored.jobs) == sorted(batch.jobs)
    assert {record.priority for record in records} == {"high"}


def test_a_running_job_makes_the_batch_run(jobs, data):
    assert state_of([]) == "queued"  # its submission has just begun
    batch = submit_batch(jobs, specs(data, "hi", "mr")).batch
    _, (first, second) = load_batch(jobs, batch.id)
    claim(jobs.records, first, "preprocess")
    _, records = load_batch(jobs, batch.id)
    assert state_of(records) == "running"
    assert second.state == "queued"


def test_a_job_waits_for_a_card_that_is_large_enough(jobs, data, redis, env):
    job = jobs.submit(specs(data, "hi", base_model="openai/whisper-large-v3")[0])
    record = jobs.records.load(job)
    assert record.memory_class == 12
    assert class_of(f"gpu{record.memory_class}.0") in classes_of("gpu", 16)
    assert classes_of("gpu", 3) == ["gpu"]
    assert classes_of("gpu", 10) == ["gpu", "gpu4", "gpu6", "gpu8"]
    assert classes_of("gpu", 24) == ["gpu", "gpu4", "gpu6", "gpu8", "gpu12", "gpu24"]
    for stage in STAGES[:1]:
        got = claim(jobs.records, record, stage)
        jobs.records.commit(got, StageResult())
    told = run("status", job, env=env).stdout
    assert "a worker of the queue gpu12, with a card of 12 GB or more; none is up" in told


@pytest.mark.parametrize(
    ("needed", "found"),
    [(0, None), (2, None), (3, 4), (5.4, 6), (7, 8), (9, 12), (13, 24), (80, 80)],
)
def test_a_memory_class_is_the_smallest_that_holds_the_job(needed, found):
    assert memory_class(needed) == found
    with pytest.raises(ValueError, match="81 GB"):
        memory_class(81)


@pytest.mark.parametrize("size", ["medium", "large-v3-turbo"])
def test_a_part_of_a_card_with_five_gb_leaves_what_needs_more_to_others(jobs, data, size):
    job = jobs.submit(specs(data, "hi", base_model=f"openai/whisper-{size}")[0])
    record = jobs.records.load(job)
    assert class_of(queue_name("train", record.lane, record.memory_class)) == "gpu6"
    assert "gpu6" not in classes_of("gpu", 5)


def test_every_lane_is_declared():
    assert len(all_queues()) == len(set(all_queues())) == LANES * 9


def test_a_job_that_another_client_has_counted_stays_queued_if_it_cannot_be_sent(
    jobs, data, redis, monkeypatch
):
    wanted = specs(data, "hi")

    def refuse(record, *_):
        other = submit_batch(Jobs(jobs.settings), wanted)  # another client comes in between
        assert other.batch.jobs == (record.id,)
        raise ServiceError("Redis did not take the message")

    monkeypatch.setattr(broker, "_send", refuse)
    with pytest.raises(ServiceError):
        submit_batch(jobs, wanted)
    _, records = load_batch(jobs, submit_batch(jobs, wanted).batch.id)
    assert [record.state for record in records] == ["queued"]
    assert (Path(records[0].folder) / "spec.json").is_file()
    assert jobs.records.overdue(0, 10) == [records[0].id]  # the reconciler sends it


@pytest.mark.parametrize("kind", ["text", "glossary"])
def test_a_language_without_its_text_or_glossary_stops_no_other(jobs, env, data, redis, kind):
    names = {code: data / f"{code}.txt" for code in ("hi", "mr", "ta")}
    for code in ("hi", "ta"):
        names[code].write_text("नमस्ते\n" if code == "hi" else "வணக்கம்\n", "utf-8")
    ask = ["submit", "--lang", "hi,mr,ta", "--corpus", f"{data}/{{language}}.tsv"]
    ask += ["--set", f"evaluate.{kind}={data}/{{language}}.txt"]
    done = run(*ask, env=env)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1)
    batch = done.stdout.strip()
    states = {it.language: it for it in load_batch(jobs, batch)[1]}
    assert {code: it.state for code, it in states.items()} == {
        "hi": "queued",
        "mr": "rejected",
        "ta": "queued",
    }
    why = f"{states['mr'].id} is rejected: evaluate.{kind}: {names['mr']} "
    assert why in done.stderr and states["mr"].error in done.stderr
    again = run("retry", batch, env=env)
    assert (again.returncode, f"evaluate.{kind}: {names['mr']} " in again.stderr) == (2, True)
    assert broker.waiting(redis) == 2

    names["mr"].write_text("नमस्कार\n", "utf-8")
    if kind == "text":
        assert run("retry", batch, env=env).returncode == 0
    else:
        # The file of a language that was queued may be missing by now.
        names["hi"].unlink()
        assert run(*ask, env=env).stdout == done.stdout
    assert broker.waiting(redis) == 3
    for code in ("hi", "mr", "ta"):
        job = JobDir(Path(states[code].folder))
        found = JobSpec.load(job.spec_path).evaluate
        copy, hashed = getattr(job, kind), getattr(found, f"{kind}_sha256")
        assert hash_file(copy) == hashed and getattr(found, kind) == str(names[code])


def test_a_rejected_job_without_its_files_is_queued_and_its_stage_says_so(jobs, data):
    (data / "mr.tsv").unlink()
    rejected = load_batch(jobs, submit_batch(jobs, specs(data, "hi", "mr")).batch.id)[1][1]
    (Path(rejected.folder) / "spec.json").unlink()
    jobs.retry(rejected.id)
    assert jobs.records.load(rejected.id).state == "queued"


def test_a_batch_of_which_no_language_has_a_text_is_refused(env, data, redis):
    ask = ["submit", "--lang", "hi,mr", "--corpus", f"{data}/{{language}}.tsv"]
    done = run(*ask, "--text", f"{data}/{{language}}.txt", env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"evaluate.text: {data}/hi.txt is no file on this machine" in done.stderr
    assert redis.keys("lorajob:*") == []
