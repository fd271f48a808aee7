"""Jobs through a real Redis and real workers; the stages are the real ones, their files made up."""

import json
import signal
import time
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.exceptions import AuthenticationError

from lorajob.errors import JobNotFoundError, ServiceError, UsageError
from lorajob.job.jobdir import JOB_ID, STAGES, JobDir, write_json
from lorajob.spec import JobSpec
from lorajob.tasks import broker
from lorajob.tasks.describe import describe
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import connect
from lorajob.worker.machine.processes import signal_process
from lorajob.worker.stack.info import StackInfo
from tests.support.ports import free_port
from tests.support.service import (
    FLOWER_PASSWORD,
    RESULTS,
    Gate,
    Service,
    command_lines,
    settings_for,
    wait_for,
)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.tsv"
    path.write_text("audio\ttext\nnowhere.wav\tनमस्ते\n", "utf-8")
    return path


@pytest.fixture
def half_allowed(service: Service) -> Jobs:
    """Jobs whose Redis user may write records but not send messages."""
    service.redis.execute_command(
        "ACL", "SETUSER", "half", "on", ">half-secret", "~lorajob:*", "+@all"
    )
    host = service.info.redis_url.rpartition("@")[2]
    url = SecretStr(f"redis://half:half-secret@{host}")
    return Jobs(service.settings.model_copy(update={"redis_url": url}))


def drained(service: Service) -> bool:
    """Every message has been taken and acknowledged."""
    return broker.waiting(service.redis) == 0 and service.redis.hlen("unacked") == 0


def stage_processes(record, stage) -> list[int]:
    mark = f"lorajob.stage {stage} {record.folder} "
    return [pid for pid, line in command_lines().items() if mark in line]


def test_the_four_stages_run_in_order_on_their_queues(service):
    record = service.new_job("hi-00000001")
    service.send(record)
    done = service.wait_until(record.id, "succeeded")
    stages = [done.stages[name] for name in STAGES]
    assert [stage.result for stage in stages] == [RESULTS[name] for name in STAGES]
    queues = [stage.worker.partition("-")[0] for stage in stages]
    assert queues == ["cpu", "gpu", "gpu", "cpu"]
    times = [time for stage in stages for time in (stage.started_at, stage.finished_at)]
    assert times == sorted(times)
    assert [stage.attempts for stage in stages] == [1, 1, 1, 1]
    assert describe(done)["metrics"] == {
        "base": {"wer": 200.0, "cer": 20.0, "wer_interval": None, "clips": 3},
        "tuned": {"wer": 50.0, "cer": 20.0, "wer_interval": None, "clips": 3},
        "converted": {"wer": 51.0, "cer": 20.0, "wer_interval": None, "clips": 3},
    }


def test_a_job_delivered_three_times_runs_once(service):
    record = service.new_job("hi-00000002", STAGES[1:])
    with Gate(record, "preprocess") as gate:
        for _ in range(3):
            service.send(record)
        service.wait_until(record.id, "running")
        wait_for(lambda: stage_processes(record, "preprocess"))
        gate.open()
        done = service.wait_until(record.id, "succeeded")
    wait_for(lambda: drained(service))
    assert service.records.load(record.id) == done
    assert [done.stages[name].attempts for name in STAGES] == [1, 1, 1, 1]


def test_a_job_cancelled_in_the_queue_never_runs(service):
    record = service.new_job("hi-00000003")
    assert service.jobs.cancel(record.id) == "cancelled"
    service.send(record)
    wait_for(lambda: drained(service))
    cancelled = service.records.load(record.id)
    assert cancelled.state == "cancelled"
    assert cancelled.stages["preprocess"].attempts == 0


def test_cancelling_a_running_job_ends_its_stage(service):
    record = service.new_job("hi-00000004", ("preprocess",))
    with Gate(record, "train"):
        service.send(record)
        wait_for(lambda: stage_processes(record, "train"))
        wait_for(lambda: service.records.load(record.id).stages["train"].state == "running")
        assert service.jobs.cancel(record.id) == "cancelling"
        cancelled = service.wait_until(record.id, "cancelled")
    assert cancelled.stages["train"].state == "cancelled"
    assert not stage_processes(record, "train")
    with pytest.raises(UsageError, match="hi-0000000a is queued; only a failed, rej"):
        service.jobs.retry(service.new_job("hi-0000000a").id)


def test_a_stage_that_fails_fails_its_job_with_one_sentence_and_a_retry_goes_on(service):
    record = service.new_job("hi-00000005", ("preprocess",))
    job = JobDir(Path(record.folder))
    spec = job.spec_path.read_text("utf-8")
    write_json(job.spec_path, {"language": "hi"})
    service.send(record)
    failed = service.wait_until(record.id, "failed")
    message = "corpus: missing; every job needs it"
    assert failed.error == failed.stages["train"].error == message
    assert failed.stages["evaluate"].state == "waiting"
    wait_for(lambda: f"{record.id} train (usage): {message}" in celery_failures(service))
    job.spec_path.write_text(spec, "utf-8")
    for stage in STAGES[1:]:
        job.commit(stage, job.new_attempt(stage, 9), RESULTS[stage])
    service.jobs.retry(record.id)
    done = service.wait_until(record.id, "succeeded")
    assert [done.stages[name].attempts for name in STAGES] == [1, 2, 1, 1]
    assert done.error is None
    with pytest.raises(UsageError, match=r"has succeeded; only a queued or running"):
        service.jobs.cancel(record.id)


def celery_failures(service: Service) -> set[str]:
    keys = service.redis.keys("celery-task-meta-*")
    metas = [json.loads(text) for text in service.redis.mget(keys) if text]
    failures = [meta["result"] for meta in metas if meta["status"] == "FAILURE"]
    return {" ".join(failure["exc_message"]) for failure in failures}


def test_a_worker_told_to_stop_gives_its_stage_back_and_the_next_one_finishes_it(service):
    record = service.new_job("hi-00000006", ("preprocess", "evaluate", "convert"))
    with Gate(record, "train") as gate:
        service.send(record)
        wait_for(lambda: stage_processes(record, "train"))
        first = stage_processes(record, "train")
        worker = StackInfo.load(service.settings.home).processes["gpu worker"]
        signal_process(worker, signal.SIGTERM)
        wait_for(lambda: service.records.load(record.id).stages["train"].attempts == 2)
        wait_for(lambda: stage_processes(record, "train"))
        assert not set(first) & set(stage_processes(record, "train"))
        gate.open()
        done = service.wait_until(record.id, "succeeded")
    assert done.stages["train"].attempts == 2


def test_no_stage_outlives_a_worker_that_is_killed(service):
    record = service.new_job("hi-00000007", ("preprocess",))
    with Gate(record, "train"):
        service.send(record)
        wait_for(lambda: stage_processes(record, "train"))
        worker = StackInfo.load(service.settings.home).processes["gpu worker"]
        signal_process(worker, signal.SIGKILL)
        wait_for(lambda: not stage_processes(record, "train"))
    wait_for(lambda: service.jobs.workers("gpu") == 1)
    service.records.delete(record.id)


def test_a_submitted_job_has_absolute_paths_and_a_readable_id(service, manifest, monkeypatch):
    monkeypatch.chdir(manifest.parent)
    (manifest.parent / "base").mkdir()
    spec = JobSpec(language="hi", corpus="corpus.tsv", base_model="base")
    job_id = service.jobs.submit(spec)
    assert JOB_ID.fullmatch(job_id) and job_id.startswith("hi-")
    record = service.jobs.load(job_id)
    stored = JobSpec.load(JobDir(Path(record.folder)).spec_path)
    assert stored.corpus == record.corpus == str(manifest)
    assert stored.base_model == str(manifest.parent / "base")
    assert job_id in [record.id for record in service.jobs.newest()]
    failed = service.wait_until(job_id, "failed")  # the folder holds no model
    assert failed.error and "\n" not in failed.error


def test_a_job_is_read_from_its_folder_when_redis_forgot_or_is_gone(service):
    record = service.new_job("hi-00000008")
    service.records.delete(record.id)
    assert service.jobs.load(record.id) == record
    nowhere = settings_for(service.settings.home, f"redis://127.0.0.1:{free_port()}/0")
    assert Jobs(nowhere).load(record.id) == record
    with pytest.raises(JobNotFoundError):
        service.jobs.load("hi-nothere")
    with pytest.raises(ServiceError):
        Jobs(nowhere).load("hi-nothere")


@pytest.mark.parametrize("job_id", ["../etc", "HI-1", "", "hi/1", "a" * 64])
def test_what_is_no_job_id_never_reaches_the_disk(service, job_id):
    for ask in (service.jobs.load, service.jobs.cancel, service.jobs.retry):
        with pytest.raises(UsageError, match="is not a job id"):
            ask(job_id)


def test_without_redis_a_submit_fails_promptly_and_leaves_nothing(tmp_path, manifest):
    port = free_port()
    settings = settings_for(tmp_path, f"redis://:top-secret@127.0.0.1:{port}/0")
    started = time.monotonic()
    with pytest.raises(ServiceError) as error:
        Jobs(settings).submit(JobSpec(language="hi", corpus=str(manifest)))
    assert time.monotonic() - started < 60
    assert f"redis://:***@127.0.0.1:{port}/0" in str(error.value)
    assert "top-secret" not in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("spec.json"))


def test_without_any_address_the_error_says_what_to_do(tmp_path, manifest):
    with pytest.raises(ServiceError, match="run `lorajob up` or set LORAJOB_REDIS_URL"):
        Jobs(settings_for(tmp_path, None)).submit(JobSpec(language="hi", corpus=str(manifest)))


def test_a_job_that_cannot_be_sent_is_withdrawn(service, half_allowed, manifest):
    before = {record.id for record in service.records.newest(1000)}
    with pytest.raises(ServiceError) as error:
        half_allowed.submit(JobSpec(language="hi", corpus=str(manifest)))
    assert "half-secret" not in str(error.value)
    assert {record.id for record in service.records.newest(1000)} == before
    assert {path.name for path in service.settings.jobs.iterdir()} >= before
    assert not [path for path in service.settings.jobs.glob("*") if not any(path.iterdir())]


def test_a_retry_that_cannot_be_sent_stays_queued_for_a_worker_to_find(service, half_allowed):
    record = service.new_job("hi-00000009")
    service.records.cancel(record.id)
    half_allowed.retry(record.id)
    assert service.records.load(record.id).state == "queued"
    assert service.redis.zscore("lorajob:queued", record.id) is not None
    service.records.delete(record.id)


def test_each_queue_has_its_worker(service):
    wait_for(lambda: service.jobs.workers("cpu") == service.jobs.workers("gpu") == 1)


def test_no_password_stands_in_arguments_logs_or_job_files(service):
    service.send(service.new_job("hi-0000000b"))
    service.wait_until("hi-0000000b", "succeeded")
    password = service.info.redis_url.partition(":")[2].partition("@")[0].lstrip("/:")
    assert len(password) > 20
    secrets = (password.encode(), FLOWER_PASSWORD.encode())
    for line in command_lines().values():
        assert password not in line and FLOWER_PASSWORD not in line
    home = service.settings.home
    files = [path for path in home.rglob("*") if path.is_file() and path.name != "up.json"]
    assert {"gpu-worker.log", "flower.log", "redis.log", "train.log"} <= {p.name for p in files}
    for path in files:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # a temporary file, renamed since
            continue
        assert not any(secret in content for secret in secrets), path
    assert (home / "up.json").stat().st_mode & 0o777 == 0o600


def test_redis_asks_for_the_password(service):
    host = service.info.redis_url.rpartition("@")[2]
    settings = settings_for(service.settings.home, f"redis://{host}")
    with connect(settings) as redis, pytest.raises(AuthenticationError):
        redis.ping()
