"""When two batches are one: whatever the order, and what became of the corpora since."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from lorajob.cli import watch
from lorajob.client.batch import Batch
from lorajob.spec import JobSpec, build_spec
from lorajob.tasks import broker
from lorajob.tasks.batches import _ids_asked_for, load_batch, submit_batch
from lorajob.worker.records.batches import Batches, JobBatch
from tests.support.batches import specs
from tests.support.command import run, succeeded_record


def test_settings_that_older_versions_lack_change_no_id():
    asked = [
        build_spec({"language": "hi", "corpus": "/c.tar"}),
        build_spec({"language": "mr", "corpus": "/m.tar", "train": {"epochs": 2}}),
    ]
    found = _ids_asked_for(asked, None, "")
    assert found == ("batch-aa54055f", ["hi-2f24e38f", "mr-ac25ecd0"])
    for values in (
        {"trackers": ["wandb"]},
        {"train": {"interpolate": 0.5}},
        {"train": {"encoder_alpha": 0.5}},
        {"text": {"case": "lower"}},
        {"evaluate": {"base_clips": 9}},
        {"evaluate": {"text": "/news.txt"}},
        {"evaluate": {"glossary": "/names.txt"}},
    ):
        other = build_spec({"language": "hi", "corpus": "/c.tar"} | values)
        assert _ids_asked_for([other, asked[1]], None, "") != found


def test_the_same_batch_in_another_order_is_the_same(jobs, data, redis):
    twice = [*specs(data, "hi", "mr"), *specs(data, "hi", seed=1)]  # one of them for two seeds
    batch = submit_batch(jobs, twice).batch
    again = submit_batch(jobs, twice[::-1])
    assert (again.batch, again.queued, broker.waiting(redis)) == (batch, 0, 3)
    seeds = [record.language for record in load_batch(jobs, batch.id)[1]]
    assert seeds == ["hi", "mr", "hi"]


def test_the_same_batch_after_its_corpora_were_deleted_is_the_same(jobs, data, redis):
    wanted = specs(data, "hi", "mr")
    batch = submit_batch(jobs, wanted).batch
    for path in data.iterdir():
        path.unlink()
    for lose in (lambda: None, redis.flushall):  # and with records that Redis has lost
        lose()
        again = submit_batch(jobs, wanted)
        assert (again.batch.id, again.batch.jobs, again.rejected) == (batch.id, batch.jobs, {})


def test_a_batch_file_is_the_same_from_any_folder_and_after_its_corpora_were_deleted(
    env, data, redis
):
    fleet = data.parent / "fleet.yaml"
    fleet.write_text("defaults: {corpus: 'data/{language}.tsv'}\nlanguages: [hi, mr]\n", "utf-8")
    other = data.parent / "other"
    shutil.copytree(data, other / "data")  # files of the same names, which FILE does not mean
    first, elsewhere = (run("batch", str(fleet), env=env, cwd=cwd) for cwd in (data, other))
    (data / "hi.tsv").unlink()
    again = run("batch", str(fleet), env=env, cwd=data)
    assert first.stdout == elsewhere.stdout == again.stdout != ""
    assert broker.waiting(redis) == 2


def test_the_same_batch_of_another_priority_or_user_is_queued_once(env, data, redis):
    ask = ("submit", "--lang", "hi,mr", "--corpus", f"{data}/{{language}}.tsv", "--priority")
    first = run(*ask, "low", env=env | {"LORAJOB_USER": "asha"})
    batch = first.stdout.strip()
    for priority, said in (("low", ""), ("high", " and keeps its priority low")):
        again = run(*ask, priority, env=env | {"LORAJOB_USER": "ravi"})
        assert (again.returncode, again.stdout) == (0, first.stdout)
        end = "nothing is queued twice (--anew queues it again)\n"
        assert again.stderr == f"lorajob: {batch} was submitted before{said}; {end}"
    assert (first.stderr, broker.waiting(redis)) == ("", 2)


def test_what_completes_a_batch_has_its_priority(jobs, env, data):
    batch = submit_batch(jobs, specs(data, "hi", "mr"), "low").batch
    jobs.records.delete(batch.jobs[1])
    (jobs.settings.jobs / batch.jobs[1] / "spec.json").unlink()
    ask = ("submit", "--lang", "hi,mr", "--corpus", f"{data}/{{language}}.tsv")
    again = run(*ask, env=env)
    assert again.stdout == f"{batch.id}\n"
    note = "was submitted before and keeps its priority low"
    assert again.stderr == f"lorajob: {batch.id} {note}\n"
    assert {record.priority for record in load_batch(jobs, batch.id)[1]} == {"low"}


@pytest.fixture
def found(env, tmp_path):
    """A LORAJOB_CORPORA with a corpus for each of two languages, and variables that name it."""
    for code in ("hi", "mr"):
        folder = tmp_path / "corpora" / "cv-corpus-1.0" / code
        folder.mkdir(parents=True)
        (folder / "manifest.tsv").write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    return env | {"LORAJOB_CORPORA": str(tmp_path / "corpora")}


def test_a_batch_is_the_same_whatever_lies_in_the_folder_of_corpora_by_then(
    found, jobs, redis, tmp_path
):
    first = run("submit", "--lang", "hi,mr", env=found)
    corpora = tmp_path / "corpora"
    (corpora / "cv-corpus-1.0").rename(corpora / "cv-corpus-2.0")  # newer ones, in its place
    newer = run("submit", "--lang", "hi,mr", env=found)
    shutil.rmtree(corpora / "cv-corpus-2.0")
    gone = run("submit", "--lang", "hi,mr", env=found)
    assert first.stdout == newer.stdout == gone.stdout != ""
    ids = load_batch(jobs, first.stdout.strip())[0].jobs
    assert broker.waiting(redis) == 2
    redis.flushall()
    assert run("submit", "--lang", "hi,mr", env=found).stdout == first.stdout
    records = load_batch(jobs, first.stdout.strip())[1]
    assert [record.id for record in records] == list(ids)
    assert {Path(record.corpus).parent.name for record in records} == {"cv-corpus-1.0"}


def test_a_corpus_of_another_folder_makes_another_batch(found, redis, tmp_path):
    first = run("submit", "--lang", "hi,mr", env=found)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "corpora", other)
    second = run("submit", "--lang", "hi,mr", env=found | {"LORAJOB_CORPORA": str(other)})
    assert "" != first.stdout != second.stdout != ""
    assert broker.waiting(redis) == 4


def test_a_rejected_language_is_queued_once_its_corpus_is_there(found, jobs, redis, tmp_path):
    corpora = tmp_path / "corpora" / "cv-corpus-1.0"
    (corpora / "mr").rename(tmp_path / "mr")
    first = run("submit", "--lang", "hi,mr", env=found)
    assert "rejected" in first.stderr
    again = run("submit", "--lang", "hi,mr", env=found)  # it is not there yet
    assert (again.stdout, broker.waiting(redis)) == (first.stdout, 1)
    (tmp_path / "mr").rename(corpora / "mr")
    completed = run("submit", "--lang", "hi,mr", env=found)
    assert (completed.stdout, completed.stderr) == (first.stdout, "")
    assert broker.waiting(redis) == 2
    _, record = load_batch(jobs, first.stdout.strip())[1]
    assert (record.state, record.error, record.corpus) == ("queued", None, str(corpora / "mr"))
    assert JobSpec.load(Path(record.folder) / "spec.json").corpus == record.corpus


def test_a_corpus_that_is_not_beside_the_batch_file_is_the_one_in_the_folder_you_are_in(
    env, data, redis
):
    fleet = data / "fleet.yaml"
    fleet.write_text("defaults: {corpus: 'data/{language}.tsv'}\nlanguages: [hi, mr]\n", "utf-8")
    done = run("batch", str(fleet), env=env, cwd=data.parent)
    assert (done.returncode, done.stderr, broker.waiting(redis)) == (0, "", 2)


def test_what_only_the_command_names_starts_from_the_folder_you_are_in(env, data, redis):
    fleet = data / "fleet.yaml"
    fleet.write_text("defaults: {corpus: 'of the file'}\nlanguages: [hi, mr]\n", "utf-8")
    (data / "data").mkdir()
    for code in ("hi", "mr"):
        (data / "data" / f"{code}.tsv").touch()  # beside FILE, and no corpus
    chosen = ["--set", "corpus=data/{language}.tsv"]
    done = run("batch", str(fleet), *chosen, env=env, cwd=data.parent)
    assert (done.returncode, done.stderr, broker.waiting(redis)) == (0, "", 2)


def test_who_follows_a_batch_waits_for_jobs_that_are_still_to_be_queued(
    jobs, tmp_path, monkeypatch
):
    monkeypatch.setattr(watch, "BATCH_POLL_SECONDS", 0.05)
    first, second = (
        succeeded_record(tmp_path, job).model_copy(update={"batch": "batch-1"})
        for job in ("hi-00000001", "mr-00000002")
    )
    made = JobBatch(id="batch-1", created_at=time.time(), jobs=(first.id, second.id))
    Batches(jobs.redis).create(made)
    jobs.records.create(first)
    ended: list[int] = []
    batch = Batch(jobs, made.id)
    follower = threading.Thread(target=lambda: ended.append(watch.follow_batch(batch)))
    follower.start()
    follower.join(timeout=1)
    early = list(ended)
    jobs.records.create(second)
    follower.join(timeout=120)
    assert (early, ended) == ([], [0])


def test_a_submission_that_was_cut_short_is_not_followed_for_ever(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "BATCH_POLL_SECONDS", 0.05)
    monkeypatch.setattr(watch, "SUBMISSION_SECONDS", 0.2)
    made = JobBatch(id="batch-1", created_at=time.time(), jobs=("hi-00000001",))
    Batches(jobs.redis).create(made)
    assert watch.follow_batch(Batch(jobs, made.id)) == 1


def test_one_language_for_a_whole_batch_is_refused(env, data, redis):
    fleet = data.parent / "fleet.yaml"
    fleet.write_text("defaults: {corpus: 'data/{language}.tsv'}\nlanguages: [hi, mr]\n", "utf-8")
    done = run("batch", str(fleet), "--set", "language=hi", env=env)
    assert (done.returncode, done.stdout) == (2, "")
    said = "lorajob: --set: 'language=hi' would make all languages of the batch one\n"
    assert done.stderr == said
    assert redis.keys("lorajob:*") == []


@pytest.mark.parametrize("languages", ["hi,Hindi", "hi,mr,hi"])
def test_a_language_asked_for_twice_alike_is_refused(env, data, redis, languages):
    corpus = f"{data}/{{language}}.tsv"
    done = run("submit", "--lang", languages, "--corpus", corpus, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lorajob: language: hi is there twice, with the same settings\n"
    assert redis.keys("lorajob:*") == []
