"""Forgetting old jobs, on a real Redis and real folders."""

import errno
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import RedisError

from lorajob.book.terms import terms_of
from lorajob.cli.errors import user_errors
from lorajob.cli.main import main
from lorajob.errors import JobNotFoundError, UsageError
from lorajob.job.jobdir import STAGES, JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.storage.store import StoreError
from lorajob.tasks.batches import cancel_batch, retry_batch
from lorajob.tasks.glossaries import GlossaryFiles
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.prune import parse_age, prune_all, remove
from lorajob.tasks.rebuild import rebuild
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.artifacts.lookup import find_job, open_job, recorded_ids
from lorajob.worker.artifacts.transfer import Errand
from lorajob.worker.artifacts.workplace import hold_copy, trim_copies
from lorajob.worker.connect import connect
from lorajob.worker.records.batches import Batches, JobBatch
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Claim, Records
from lorajob.worker.settings import Settings
from lorajob.worker.supervision.outcome import Committed, Listener, Outcome
from lorajob.worker.supervision.watcher import RecordWatch
from tests.support.command import environment, job_record, run, url_of
from tests.support.listening import Listening
from tests.support.service import RESULTS, SCORES

DAY = 86_400


@pytest.fixture
def jobs(redis_server: Settings, tmp_path: Path) -> Iterator[Jobs]:
    with connect(redis_server) as redis:
        redis.flushall()
    yield Jobs(redis_server.model_copy(update={"artifacts": tmp_path / "home" / "jobs"}))


def make(jobs: Jobs, job_id: str, days: float, wer: float, state: str = "succeeded"):
    """A job that ended, or began to wait, so many days ago."""
    folder = JobDir(jobs.settings.jobs / job_id)
    write_json(folder.spec_path, {})
    ended = time.time() - days * DAY
    stages = new_stages()
    if state == "succeeded":
        results = RESULTS | {"evaluate": StageResult(base=SCORES, tuned=SCORES | {"wer": wer})}
        stages = {
            name: stages[name].model_copy(
                update={"state": state, "result": results[name], "finished_at": ended}
            )
            for name in STAGES
        }
    record = JobRecord(
        id=job_id,
        language="hi",
        state=state,
        created_at=ended,
        corpus="c",
        base_model="m",
        folder=str(folder.root),
        batch="batch-1",
        stages=stages,
    )
    jobs.records.create(record)
    Batches(jobs.redis).restore(record)
    return record


def test_old_jobs_go_and_the_best_one_stays(jobs, redis_server, tmp_path):
    for job_id, days, wer in (("hi-old", 40, 50), ("hi-best", 90, 20), ("hi-new", 2, 60)):
        make(jobs, job_id, days, wer)
    make(jobs, "hi-failed", 40, 0, "failed")
    make(jobs, "hi-waits", 40, 0, "queued")
    env = environment(redis_url=url_of(redis_server), home=tmp_path / "home")
    env["LORAJOB_ARTIFACTS"] = str(jobs.settings.jobs)
    told = run("prune", "--older", "30d", "--dry-run", env=env)
    assert sorted(told.stdout.split()) == ["hi-failed", "hi-old"]
    assert len(list(jobs.settings.jobs.iterdir())) == 5
    done = run("prune", "--older", "30d", "--keep", "best", env=env)
    assert done.stdout == told.stdout
    left = sorted(path.name for path in jobs.settings.jobs.iterdir())
    assert left == ["hi-best", "hi-new", "hi-waits"]
    with pytest.raises(JobNotFoundError):
        jobs.records.load("hi-old")
    assert sorted(Batches(jobs.redis).load("batch-1").jobs) == left


def test_the_glossary_of_a_job_goes_with_it(jobs):
    kept = GlossaryFiles(jobs.settings)
    for job_id in ("hi-old", "hi-gone", "hi-new"):
        record = make(jobs, job_id, 2 if job_id == "hi-new" else 40, 50)
        open_job(record, jobs.settings).location.write_json(
            "job.json", record.model_dump(mode="json")
        )
        kept.add(job_id, terms_of(["Nairobi"]))
    remove(jobs, "hi-gone")
    assert kept.names() == ["hi-new", "hi-old"]
    assert [it.id for it in prune_all(jobs, 30 * DAY, "none").jobs] == ["hi-old"]
    assert kept.names() == ["hi-new"]


def far_job(redis_server: Settings, tmp_path: Path, job_id: str) -> tuple[Jobs, JobRecord]:
    """A failed job whose files are in a store."""
    places = {"artifacts": f"file://{tmp_path}/store", "home": tmp_path / "home"}
    jobs = Jobs(redis_server.model_copy(update=places))
    place = f"file://{tmp_path}/store/{job_id}"
    record = job_record(tmp_path / "unused", job_id, state="failed", folder=place, created_at=0.0)
    spec = JobSpec(language="hi", corpus="/nowhere").model_dump(mode="json")
    open_job(record, jobs.settings).put_spec(spec)
    jobs.records.create(record)
    return jobs, record


def test_what_a_command_reads_is_neither_pruned_nor_removed_to_make_room(
    jobs, redis_server, tmp_path
):
    far, record = far_job(redis_server, tmp_path, "hi-far")
    with open_job(record, far.settings).local(lambda: record) as folder:
        assert folder.spec_path.is_file()
        other = JobStore(f"{far.settings.store_url}/hi-other", far.settings.workplace)
        trim_copies(other, 0)
        assert folder.spec_path.is_file()
        assert [gone.id for gone in prune_all(far, DAY, "none").jobs] == [record.id]
        assert folder.spec_path.is_file() and not find_job(record.id, far.settings).has_spec()
    trim_copies(other, 0)
    assert not folder.root.exists()


def test_what_commands_fetched_is_kept_within_the_room_for_jobs(jobs, redis_server, tmp_path):
    folders = []
    for number in range(3):
        far, record = far_job(redis_server, tmp_path, f"hi-far{number}")
        small = far.settings.model_copy(update={"jobs_gb": 1.5e-3})  # one and a half
        with open_job(record, small).local(lambda record=record: record) as folder:
            (folder.root / "model.bin").write_bytes(bytes(1_000_000))
            folders.append(folder.root)
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_a_folder_that_is_removed_by_hand_does_not_undo_its_stage(tmp_path):
    stored = JobStore(f"file://{tmp_path}/store/hi-1", tmp_path / "jobs")
    with hold_copy(stored):
        stored.job.root.rmdir()
    assert not stored.job.root.exists()


@pytest.mark.parametrize(
    ("stop", "code", "notes"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "a"),
            0,
            ["hi-theirs is not deleted: a: Permission denied; prune again later"],
        ),
        (KeyboardInterrupt(), 130, []),
    ],
    ids=["refused", "interrupted"],
)
def test_a_job_that_is_half_deleted_is_not_run_again_and_its_rest_goes_later(
    jobs, monkeypatch, stop, code, notes
):
    job = JobDir(Path(make(jobs, "hi-theirs", 40, 50).folder))
    write_json(job.stage_dir("convert") / "manifest.json", {"result": {}})
    delete = shutil.rmtree

    def begin(path: Path, ignore_errors: bool = False) -> None:
        if ignore_errors:
            return delete(path, ignore_errors)
        delete(Path(path, "convert"))
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr("lorajob.worker.artifacts.job_files.shutil.rmtree", begin)
        told: list[str] = []
        with user_errors() as outcome:
            told += prune_all(jobs, DAY, "none").notes
    assert (outcome.code, told) == (code, notes)
    assert rebuild(jobs.settings).jobs == ()
    assert recorded_ids(jobs.settings) == []
    assert any(jobs.settings.jobs.iterdir())
    assert prune_all(jobs, DAY, "none").jobs == []
    assert not any(jobs.settings.jobs.iterdir())


def test_a_folder_that_cannot_be_put_aside_is_a_whole_job_for_rebuild(jobs, monkeypatch):
    record = make(jobs, "hi-theirs", 40, 0, "failed")

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    found = prune_all(jobs, DAY, "none")
    why = f"{record.folder}: Permission denied; prune again later"
    assert (found.jobs, found.notes) == ([], [f"hi-theirs is not deleted: {why}"])
    rebuild(jobs.settings)
    assert jobs.records.load(record.id).state == "failed"


@pytest.mark.parametrize("failing", ["job", "base models"])
def test_the_ids_of_deleted_jobs_are_told_although_a_later_step_fails(
    jobs, redis_server, monkeypatch, capsys, failing
):
    ages = {"a": 50, "b": 45, "c": 40}
    kept = [make(jobs, f"hi-{name}", days, 0, "failed") for name, days in ages.items()]
    rename = Path.rename

    def refuse(path: Path, target: Path) -> None:
        if failing == "job" and path.name == "hi-b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        rename(path, target)

    def unavailable(_: Jobs) -> list[str]:
        raise StoreError("the store is unavailable")

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr("lorajob.tasks.prune.drop_bases", unavailable)
    monkeypatch.setenv("LORAJOB_REDIS_URL", url_of(redis_server))
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(jobs.settings.jobs))
    assert main(["prune", "--older", "30d"]) == 1
    told = capsys.readouterr()
    if failing == "job":
        assert told.out == "hi-a\nhi-c\n" and "lorajob: 2 jobs deleted\n" in told.err
        assert f"lorajob: hi-b is not deleted: {kept[1].folder}: Permission denied; " in told.err
    else:
        assert told.out == "hi-a\nhi-b\nhi-c\n"
    why = "the store is unavailable; prune again later"
    assert f"lorajob: unused base models are not deleted: {why}\n" in told.err


def test_a_prune_ends_when_redis_stops_answering(jobs, monkeypatch):
    ages = {"a": 50, "b": 45, "c": 40}
    made = [make(jobs, f"hi-{name}", days, 0, "failed").id for name, days in ages.items()]
    forget = Records.forget

    def stop_answering(self: Records, job_id: str) -> bool:
        if job_id == made[1]:
            raise RedisError("no answer")
        return forget(self, job_id)

    monkeypatch.setattr(Records, "forget", stop_answering)
    found = prune_all(jobs, 30 * DAY, "none")
    assert [it.id for it in found.jobs] == made[:1] and len(found.notes) == 1
    assert found.notes[0].startswith("hi-b is not deleted: ")
    assert jobs.records.load(made[2]).state == "failed"


def test_what_stays_of_a_pruned_job_is_named_each_time(jobs, monkeypatch, caplog):
    (jobs.settings.jobs / ".gone-hi-theirs").mkdir(parents=True)
    monkeypatch.setattr("lorajob.storage.folders.shutil.rmtree", lambda *_, **__: None)
    prune_all(jobs, DAY, "none")
    assert caplog.messages == [f"{jobs.settings.jobs}/.gone-hi-theirs cannot be deleted"]


def test_the_copy_here_goes_with_the_job(jobs, redis_server, tmp_path):
    far, record = far_job(redis_server, tmp_path, "hi-far")
    with open_job(record, far.settings).local(lambda: record) as folder:
        pass
    prune_all(far, DAY, "none")
    assert not folder.root.exists() and not find_job(record.id, far.settings).has_spec()


def test_the_copy_that_a_stale_owner_works_in_goes_when_its_stage_ends(
    jobs, redis_server, tmp_path, caplog
):
    far, record = far_job(redis_server, tmp_path, "hi-far")
    stored = JobStore(record.folder, far.settings.workplace)
    claim = Claim(record.id, "preprocess", 1, "owner")
    watch, reached = RecordWatch(far.records, claim, 90), threading.Event()

    def run(job: JobDir, listener: Listener) -> Outcome:
        job.commit("preprocess", job.new_attempt("preprocess", 1), StageResult())
        prune_all(far, DAY, "none")
        assert job.root.is_dir() and "is in use; it stays until its stage ends" in caplog.text
        reached.set()  # Redis, which it had lost sight of
        return Committed(StageResult())

    listening = Listening(lambda progress: watch.hear(progress) if reached.is_set() else None)
    errand = Errand(listening, 0.05, 1)
    open_job(record, far.settings).run(record, claim, errand, run)
    assert not stored.job.root.exists() and stored.store.names() == {}


def test_a_job_that_is_retried_meanwhile_stays(jobs):
    record = make(jobs, "hi-failed", 40, 0, "failed")
    jobs.records.retry(record.id)
    assert not jobs.records.forget(record.id)
    assert jobs.records.load(record.id).state == "queued"
    assert jobs.records.queued() == 1


@pytest.mark.parametrize(
    ("act", "state"), [(cancel_batch, "queued"), (retry_batch, "failed")], ids=["cancel", "retry"]
)
def test_a_job_that_is_pruned_meanwhile_stops_no_other_of_its_batch(jobs, monkeypatch, act, state):
    ids = [
        make(jobs, f"hi-{name}", 1, 0, state).id for name in ("00000001", "00000002", "00000003")
    ]
    load_many = Records.load_many

    def and_prune_one(self, asked):
        found = load_many(self, asked)
        self.delete(ids[0])
        return found

    monkeypatch.setattr(Records, "load_many", and_prune_one)
    assert act(jobs, "batch-1").jobs == ids[1:]


def test_without_keeping_the_best_goes_too(jobs):
    make(jobs, "hi-best", 90, 20)
    assert [record.id for record in prune_all(jobs, 30 * DAY, "none").jobs] == ["hi-best"]
    with pytest.raises(JobNotFoundError):
        Batches(jobs.redis).load("batch-1")


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * DAY), ("12h", 43_200), ("1.5w", 907_200)]
)
def test_ages_are_hours_days_and_weeks(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "30 days"])
def test_an_age_without_a_unit_is_refused(text):
    with pytest.raises(UsageError, match="30d"):
        parse_age(text)


def test_a_batch_that_is_there_is_not_made_twice(jobs):
    batches = Batches(jobs.redis)
    batch = JobBatch(id="batch-2", created_at=1.0, jobs=("a", "b"))
    assert batches.create(batch) == batch
    assert batches.create(batch.model_copy(update={"jobs": ("c",)})) == batch
    assert batches.newest() == [batch]


def test_jobs_leave_a_batch_and_come_back_to_it_at_the_same_time(jobs):
    batches = Batches(jobs.redis)
    old, back = [[f"{name}-{number}" for number in range(60)] for name in ("old", "back")]
    batches.create(JobBatch(id="batch-1", created_at=1.0, jobs=tuple(old)))
    records = [make(jobs, job_id, 40, 50) for job_id in back]
    for job_id in back:
        batches.remove(job_id, "batch-1")
    start = threading.Barrier(3)

    def at_once(act, those):
        start.wait()
        for job in those:
            act(job)

    acts = (lambda job_id: batches.remove(job_id, "batch-1"), batches.restore, batches.restore)
    work = zip(acts, (old, records[:30], records[30:]), strict=True)
    threads = [threading.Thread(target=at_once, args=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(batches.load("batch-1").jobs) == sorted(back)
