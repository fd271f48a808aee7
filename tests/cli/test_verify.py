"""`lorajob verify` finds every change to a job's files and to its base model."""

import json
import shutil
from io import StringIO
from pathlib import Path

import pytest

from lorajob.job.jobdir import MANIFEST, JobDir, hash_files, write_json
from lorajob.job.report import Report
from lorajob.job.results import StageResult
from lorajob.stage import run_stage
from lorajob.tasks import verify as tasks_verify
from lorajob.worker.artifacts.job_files import LocalJob
from lorajob.worker.records.record import JobRecord
from tests.support.command import environment, finished, job_record, run
from tests.support.tiny import make_job
from tests.support.training import SHORT

JOB = "hi-1a2b3c4d"


@pytest.fixture(scope="module")
def trained(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and the trained job `jobs/JOB`."""
    folder = tmp_path_factory.mktemp("trained")
    base = Path(shutil.copytree(tiny_whisper, folder / "base"))
    job = make_job(folder / "jobs" / JOB, base, *SHORT, "train.epochs=1", clips=4)
    run_stage("train", job, 1, Report("train", StringIO()))
    out = job.new_attempt("convert", 1)
    (out / "model").mkdir()
    (out / "model" / "model.bin").write_bytes(b"weights")
    base_sha256 = job.result("train").base_sha256  # type: ignore[union-attr]
    inputs = {name: job.tree_hash(name) for name in ("preprocess", "train")}
    fields = {"base_sha256": base_sha256, "inputs": inputs, "model": "convert/model"}
    job.commit("convert", out, StageResult.model_validate(fields))
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage; the base stays where it is."""
    return Path(shutil.copytree(trained / "jobs", tmp_path / "jobs"))


def recorded(jobs: Path) -> JobRecord:
    """The record of the job, which is written to its job.json."""
    record = job_record(jobs, JOB)
    stages = dict(record.stages)
    for name in ("preprocess", "train", "convert"):
        done = finished(name)[name]
        result = JobDir(jobs / JOB).result(name)
        stages[name] = done.model_copy(update={"result": result})
    changes = {"stages": stages, "folder": str(jobs / JOB)}
    record = record.model_copy(update=changes)
    record.save()
    return record


def verify(jobs: Path, *options: str) -> tuple[int, str]:
    recorded(jobs)
    env = environment(home=jobs.parent / "home", artifacts=jobs)
    told = run("verify", JOB, *options, env=env)
    assert "Traceback" not in told.stderr
    return told.returncode, told.stdout


def test_an_untouched_job_has_no_fault(place: Path) -> None:
    code, text = verify(place, "--json")
    found = json.loads(text)
    assert (code, found["ok"], found["base"]["here"]) == (0, True, "same")
    code, text = verify(place)
    assert code == 0 and "fault" not in text
    assert [line.split()[0] for line in text.splitlines()] == [
        "preprocess",
        "train",
        "convert",
        "base",
    ]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("convert/model/model.bin", "alter", "convert/model/model.bin: altered"),
        ("train/adapter/adapter_model.safetensors", "remove", "model.safetensors: missing"),
        ("preprocess/train/more.arrow", "alter", "preprocess/train/more.arrow: added"),
        ("train/manifest.json", "alter", "train/manifest.json: damaged"),
    ],
)
def test_each_changed_file_is_one_line(place: Path, name: str, change: str, said: str) -> None:
    path = place / JOB / name
    if change == "remove":
        path.unlink()
    else:
        with path.open("ab") as file:
            file.write(b"more")
    job = place / JOB / "train" / MANIFEST
    if path == job:  # its result cannot be read for the record either
        env = environment(home=place.parent / "home", artifacts=place)
        job_record(place, JOB).save()
        told = run("verify", JOB, env=env)
        assert told.returncode == 1 and said in told.stdout
        return
    code, text = verify(place)
    faults = [line for line in text.splitlines() if line.startswith("fault: ")]
    assert code == 1 and len(faults) == 1 and said in faults[0]


def test_an_altered_or_missing_file_of_any_kind_is_noticed(place: Path) -> None:
    record, root = recorded(place), place / JOB
    left = ("log", "report.html")
    checkpoint = root / "checkpoints" / "1" / "step-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text('{"step": 2}')
    write_json(checkpoint / MANIFEST, {"files": hash_files(checkpoint)})
    paths = [
        it for it in root.rglob("*") if it.is_file() and it.relative_to(root).parts[0] not in left
    ]
    kinds = {str(it.relative_to(root).parent) for it in paths}
    wanted = {".", "preprocess", "train/adapter", "convert/model", "checkpoints/1/step-2"}
    assert wanted < kinds

    def faults() -> tuple[str, ...]:
        return tasks_verify.verify(LocalJob(root), record, lambda: record).faults

    assert faults() == ()
    # A job that goes on while it is checked: its copy is of a later revision than its record.
    later = {"state": "running", "revision": record.revision + 1}
    ended, record = record, record.model_copy(update={"state": "queued"})
    ended.model_copy(update=later).save()
    assert faults() == ()
    record = ended
    record.save()
    for path in paths:
        kept = path.read_bytes()
        altered = kept.replace(b'"hi"', b'"mr"')  # the language, in spec.json and job.json
        path.write_bytes(altered if altered != kept else kept[:-1] + b"?")
        assert any(path.name in it or "spec.json" in it for it in faults()), path
        path.unlink()
        # Without its manifest a checkpoint does not count as one.
        lone = path.name == MANIFEST and "checkpoints" in path.parts
        assert faults() or lone, path
        path.write_bytes(kept)
    assert faults() == ()


def test_a_stage_computed_from_other_files_is_a_fault(place: Path) -> None:
    manifest = place / JOB / "convert" / MANIFEST
    kept = json.loads(manifest.read_bytes())
    kept["result"]["inputs"]["train"] = "0" * 64
    write_json(manifest, kept)
    code, text = verify(place)
    assert code == 1
    assert f"fault: convert: used other files of train: {'0' * 64}, here " in text
    refused = run(
        "transcribe",
        JOB,
        __file__,
        env=environment(home=place.parent / "home", artifacts=place),
    )
    assert refused.returncode == 1 and "convert: used other files of train" in refused.stderr


def test_stages_on_two_bases_are_a_fault(place: Path) -> None:
    manifest = place / JOB / "convert" / MANIFEST
    kept = json.loads(manifest.read_bytes())
    kept["result"]["base_sha256"] = "0" * 64
    write_json(manifest, kept)
    code, text = verify(place)
    assert code == 1 and f"fault: convert: used base model {'0' * 64}, train used " in text


def test_another_base_at_its_place_is_a_fault(place: Path, trained: Path) -> None:
    path = trained / "base" / "generation_config.json"
    kept = path.read_bytes()
    write_json(path, json.loads(kept) | {"max_length": 17})
    try:
        code, text = verify(place, "--json")
    finally:
        path.write_bytes(kept)
    found = json.loads(text)
    assert (code, found["base"]["here"]) == (1, "other")
    assert "is another one here" in found["faults"][0]


def test_a_missing_job_is_one_line(tmp_path: Path) -> None:
    told = run("verify", JOB, env=environment(home=tmp_path))
    assert told.returncode == 1 and len(told.stderr.splitlines()) == 1
