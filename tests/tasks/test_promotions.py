"""Which job answers for a language: promotions, rollbacks, and what prune and rm keep."""

import json
from pathlib import Path

import pytest

from lorajob.cli.main import main
from lorajob.errors import JobNotFoundError, StageError, UsageError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import JobSpec
from lorajob.tasks.promotions import FOLDER, Promotions, open_delivered
from lorajob.tasks.prune import check_not_promoted
from lorajob.worker.settings import Settings

OLD, NEW, FAILED = "hi-aaaa1111", "hi-bbbb2222", "hi-cccc3333"


class Jobs:
    """As much of the jobs as a check needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, artifacts=tmp_path / "jobs")


def make(settings: Settings, job_id: str, language: str = "hi", **fields: object) -> JobDir:
    job = JobDir(settings.jobs / job_id)
    write_json(job.spec_path, JobSpec(language=language, corpus="/x").model_dump(mode="json"))
    out = job.new_attempt("convert", 1)
    (out / "model").mkdir()
    (out / "model" / "model.bin").write_bytes(b"weights of " + job_id.encode())
    values = {"model": "convert/model"} | fields
    job.commit("convert", out, StageResult.model_validate(values))
    return job


def test_a_language_answers_with_the_last_promoted_and_rolls_back(settings: Settings) -> None:
    for job in (OLD, NEW):
        make(settings, job)
    promotions = Promotions(settings)
    assert promotions.languages() == [] and promotions.current("hi") is None
    assert promotions.promote(OLD)[0] == "hi"
    promotions.promote(NEW)
    promotions.promote(NEW)  # again changes nothing
    assert promotions.languages() == ["hi"]
    assert promotions.current_jobs() == {NEW: "hi"} and promotions.kept() == {OLD, NEW}
    language, old, new = promotions.rollback("Hindi")
    assert (language, old.job, new.job) == ("hi", NEW, OLD)
    assert promotions.current_jobs() == {OLD: "hi"}
    with pytest.raises(UsageError, match="is the only model that was promoted"):
        promotions.rollback("hi")
    with pytest.raises(UsageError, match="mr: no model is promoted"):
        promotions.rollback("mr")


def test_a_failed_gate_is_promoted_by_force_alone(settings: Settings) -> None:
    reasons = ["3 of 100 clips loop", "English forgotten"]
    make(settings, FAILED, gate="failed", gate_reasons=reasons)
    make(settings, OLD, gate="passed", gate_reasons=[])
    promotions = Promotions(settings)
    with pytest.raises(UsageError, match=r"3 of 100 clips loop; English forgotten; .*--force"):
        promotions.promote(FAILED)
    assert promotions.current("hi") is None
    assert not promotions.promote(OLD, force=True)[1].forced
    assert promotions.promote(FAILED, force=True)[1].forced
    kept = json.loads((settings.jobs / FOLDER / "hi.json").read_text())
    assert [it["forced"] for it in kept["promoted"]] == [False, True]


def test_a_promotion_names_what_the_gate_did_not_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = {"name": "noise", "state": "not_checked", "reason": "gate.minutes=10 ended"}
    wer = {"name": "wer", "state": "passed", "reason": "WER 9 %"}
    make(settings, OLD, gate="passed", gate_reasons=[], guards=[wer, left])
    assert Promotions(settings).promote(OLD)[1].unchecked == ("noise",)
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(settings.jobs))
    assert main(["promote"]) == 0
    assert capsys.readouterr().out.endswith("; its gate passed, 1 not checked: noise\n")


def test_what_has_no_model_is_not_promoted(settings: Settings) -> None:
    unfinished = JobDir(settings.jobs / NEW)
    spec = JobSpec(language="hi", corpus="/x").model_dump(mode="json")
    write_json(unfinished.spec_path, spec)
    promotions = Promotions(settings)
    with pytest.raises(StageError, match="has no model yet"):
        promotions.promote(NEW)
    with pytest.raises(JobNotFoundError, match="has no folder"):
        promotions.promote("hi-00000000")
    for name in ("../jobs", "", "HI"):
        with pytest.raises(UsageError, match="is not a job's id"):
            promotions.promote(name)


def test_a_rollback_to_a_deleted_job_changes_nothing(settings: Settings) -> None:
    for job in (OLD, NEW):
        make(settings, job)
        Promotions(settings).promote(job)
    (settings.jobs / OLD).rename(settings.jobs / "gone")
    with pytest.raises(JobNotFoundError):
        Promotions(settings).rollback("hi")
    assert Promotions(settings).current_jobs() == {NEW: "hi"}


def test_the_model_comes_with_the_hashes_of_its_files(settings: Settings) -> None:
    job = make(settings, OLD)
    with open_delivered(OLD, settings) as model:
        assert model.folder == job.root / "convert" / "model" and model.language == "hi"
        assert set(model.sha256) == {"model.bin"} and len(model.sha256["model.bin"]) == 64


def test_a_promoted_job_is_not_removed(settings: Settings) -> None:
    make(settings, OLD)
    Promotions(settings).promote(OLD)
    with pytest.raises(UsageError, match="is the promoted model of hi; `lorajob rollback hi`"):
        check_not_promoted(Jobs(settings), OLD)
    check_not_promoted(Jobs(settings), NEW)


def test_a_damaged_file_is_named(settings: Settings) -> None:
    (settings.jobs / FOLDER).mkdir(parents=True)
    (settings.jobs / FOLDER / "hi.json").write_text("{")
    with pytest.raises(StageError, match=r"hi\.json in LORAJOB_ARTIFACTS is damaged"):
        Promotions(settings).current("hi")
