"""`lorajob rm`, bare `prune`, and jobs of other users."""

from pathlib import Path

import pytest
from redis import Redis

from lorajob.cli.main import main
from lorajob.job.jobdir import write_json
from lorajob.job.results import StageResult
from lorajob.tasks.prune import to_prune
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import SCORES, job_record, succeeded_record, url_of

OLD, NEW, BUSY = "hi-0000000a", "hi-0000000b", "hi-0000000c"


@pytest.fixture
def records(
    redis: Redis, redis_server: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Records:
    jobs = tmp_path / "jobs"
    monkeypatch.setenv("LORAJOB_REDIS_URL", url_of(redis_server))
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(jobs))
    monkeypatch.setenv("LORAJOB_USER", "asha")
    found = Records(redis)
    for job_id in (OLD, NEW):
        found.create(succeeded_record(jobs, job_id).model_copy(update={"user": "asha"}))
    found.create(job_record(jobs, BUSY, user="asha"))
    return found


def test_rm_deletes_the_named_jobs_alone(
    records: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rm", OLD, OLD]) == 0
    assert capsys.readouterr().out == f"{OLD}\n"
    assert set(records.ids()) == {NEW, BUSY}
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {NEW, BUSY}


def test_rm_deletes_nothing_if_one_job_is_not_over(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rm", NEW, BUSY]) == 2
    assert f"{BUSY} is queued; `lorajob cancel {BUSY}` first" in capsys.readouterr().err
    assert main(["rm", NEW, "hi-99999999"]) == 1
    assert set(records.ids()) == {OLD, NEW, BUSY}


@pytest.mark.parametrize("command", ["cancel", "rm", "retry"])
def test_a_job_of_another_user_needs_anyone(
    command: str,
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LORAJOB_USER", "ravi")
    job = BUSY if command == "cancel" else OLD
    assert main([command, job]) == 2
    assert f"{job} belongs to asha, and you are ravi; --anyone" in capsys.readouterr().err
    main([command, job, "--anyone"])
    assert "belongs to" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["field", "type"])
def test_a_damaged_record_is_restored_or_deleted(
    kind: str,
    records: Records,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for job_id in (OLD, NEW):
        write_json(tmp_path / "jobs" / job_id / "spec.json", {"language": "hi", "corpus": "c"})
        if kind == "type":
            redis.delete(f"lorajob:job:{job_id}")
            redis.set(f"lorajob:job:{job_id}", "a string")
        else:
            redis.hset(f"lorajob:job:{job_id}", "created_at", "not a number")
        records.set_aside(job_id, "damaged")
    redis.sadd("lorajob:open:user:asha", OLD)
    assert main(["rm", OLD]) == 2
    err = capsys.readouterr().err
    assert f"`lorajob rm --yes {OLD}` deletes both. Nothing was deleted" in err
    monkeypatch.setenv("LORAJOB_USER", "ravi")
    assert main(["rm", "--yes", OLD]) == 2
    assert f"{OLD} belongs to asha" in capsys.readouterr().err
    monkeypatch.setenv("LORAJOB_USER", "asha")
    assert main(["rm", "--yes", OLD]) == 0
    assert set(records.ids()) == {NEW, BUSY} and not (tmp_path / "jobs" / OLD).exists()
    assert not redis.sismember("lorajob:open:user:asha", OLD)
    capsys.readouterr()
    assert main(["rebuild"]) == 0
    assert capsys.readouterr().out == f"{NEW}\n"
    restored = records.load(NEW)
    # The files of its stages are missing, so it is queued anew.
    assert (restored.state, restored.user) == ("queued", "asha") and not records.damaged()


def test_bare_prune_deletes_nothing(records: Records, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--keep", "none"]) == 0
    out, err = capsys.readouterr()
    assert set(out.split()) == {OLD, NEW}  # they ended in 1970
    assert "2 jobs would be deleted" in err
    assert set(records.ids()) == {OLD, NEW, BUSY}


def scored_on(record: JobRecord, wer: float, clips: str, cer: float = 50.0) -> JobRecord:
    stages = dict(record.stages)
    result = StageResult.model_validate(
        {"tuned": SCORES | {"wer": wer, "cer": cer}, "inputs": {"preprocess": clips}}
    )
    stages["evaluate"] = stages["evaluate"].model_copy(update={"result": result})
    return record.model_copy(update={"stages": stages})


def test_the_best_is_of_jobs_with_the_same_test_clips(tmp_path: Path) -> None:
    made = [succeeded_record(tmp_path, f"hi-0000000{number}") for number in range(3)]
    records = [
        scored_on(made[0], 50, "a"),
        scored_on(made[1], 40, "a"),
        scored_on(made[2], 90, "b"),
    ]
    assert [it.id for it in to_prune(records, 60, "best")] == ["hi-00000000"]


def test_the_best_of_a_script_without_spaces_has_the_fewest_wrong_characters(
    tmp_path: Path,
) -> None:
    """A Japanese sentence is one word, so its word error rate says nothing."""
    records = []
    for number, (wer, cer) in enumerate(((90.0, 30.0), (95.0, 20.0), (80.0, 40.0))):
        record = scored_on(succeeded_record(tmp_path, f"ja-0000000{number}"), wer, "a", cer=cer)
        records.append(record.model_copy(update={"language": "ja"}))
    assert [it.id for it in to_prune(records, 60, "best")] == ["ja-00000000", "ja-00000002"]


def test_ages_are_by_the_given_clock(tmp_path: Path) -> None:
    record = succeeded_record(tmp_path)
    assert to_prune([record], 60, "none", now=172.0 + 59) == []
    assert to_prune([record], 60, "none", now=172.0 + 61) == [record]
