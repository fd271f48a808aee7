"""A job keeps to the base model that it began with."""

import json
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorajob.errors import ModelError
from lorajob.job.jobdir import MANIFEST, JobDir, write_json
from lorajob.job.report import Report
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.stage import run_stage
from lorajob.storage import hashes, places
from lorajob.storage.hashes import file_hash, values_hash
from lorajob.whisper import base_model
from lorajob.whisper.identity import base_of, identify
from tests.support.tiny import make_job
from tests.support.training import SHORT

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(stage: str, job: JobDir, attempt: int = 1) -> StageResult:
    return run_stage(stage, job, attempt, Report(stage, StringIO()))


def perturb(folder: Path) -> None:
    path = folder / "model.safetensors"
    arrays = load_file(path)
    arrays["model.decoder.layer_norm.weight"] *= np.float32(1.01)
    save_file(arrays, path, metadata={"format": "pt"})


@pytest.fixture
def base(tiny_whisper: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_whisper, tmp_path / "base"))


@pytest.fixture(scope="module")
def trained_once(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    root = tmp_path_factory.mktemp("trained") / "job"
    job = make_job(root, tiny_whisper, *SHORT, "train.epochs=1", clips=4)
    run("train", job)
    return job


@pytest.fixture
def trained(trained_once: JobDir, base: Path, tmp_path: Path) -> JobDir:
    """A trained job whose base lies in `base`."""
    job = JobDir(shutil.copytree(trained_once.root, tmp_path / "job"))
    spec = json.loads(job.spec_path.read_bytes())
    write_json(job.spec_path, spec | {"base_model": str(base)})
    return job


def test_a_base_perturbed_between_train_and_evaluate_is_refused(
    trained: JobDir, base: Path
) -> None:
    began = identify(base).sha256
    perturb(base)
    now = identify(base).sha256
    with pytest.raises(ModelError) as caught:
        run("evaluate", trained)
    message = str(caught.value)
    assert began in message and now in message and "\n" not in message
    assert "lorajob retry job" in message
    assert began != now
    assert not trained.stage_dir("evaluate").exists()


def test_a_resume_on_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", base, *SHORT, clips=4)
    manifest = job.stage_dir("preprocess") / MANIFEST
    kept = json.loads(manifest.read_bytes())
    kept["result"]["base_sha256"] = "0" * 64
    write_json(manifest, kept)
    with pytest.raises(ModelError, match=f"stage preprocess of this job used.*{'0' * 64}"):
        run("train", job)


@pytest.mark.usefixtures("brief")
def test_a_job_half_done_by_an_older_version_goes_on(trained: JobDir) -> None:
    assert trained.result("preprocess") == StageResult()  # no identity
    done = trained.result("train")
    assert done is not None and run("evaluate", trained).base_sha256 == done.base_sha256


def test_results_and_adapter_name_base_and_inputs(trained: JobDir, base: Path) -> None:
    result = trained.result("train")
    assert result is not None
    assert result.base_sha256 == identify(base).sha256
    assert result.inputs == {"preprocess": trained.tree_hash("preprocess")}
    path = trained.stage_dir("train") / "adapter" / "adapter_config.json"
    assert json.loads(path.read_bytes())["auto_mapping"]["base_sha256"] == result.base_sha256


def test_the_adapter_still_loads_in_plain_peft(trained: JobDir, base: Path) -> None:
    from peft import PeftModel
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(base)
    PeftModel.from_pretrained(model, str(trained.stage_dir("train") / "adapter"))


def snapshot(folder: Path) -> Callable[..., str]:
    def fake(name: str, revision: str | None = None, **_: object) -> str:
        asked.append(revision)
        return str(folder)

    asked: list[str | None] = []
    fake.asked = asked  # type: ignore[attr-defined]
    return fake


def test_later_stages_ask_the_hub_for_the_commit_of_the_first(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models--x--y" / "snapshots" / COMMIT
    shutil.copytree(tiny_whisper, folder)
    fake = snapshot(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    job = JobDir(tmp_path / "job")
    spec = build_spec({"language": "hi", "corpus": "c", "base_model": "x/y"})
    first = base_of(spec, job)
    assert first.commit == COMMIT
    out = job.new_attempt("preprocess", 1)
    job.commit("preprocess", out, StageResult(**first.as_result()))
    base_of(spec, job)
    assert fake.asked == [None, COMMIT]  # type: ignore[attr-defined]


def test_json_counts_by_its_values(base: Path) -> None:
    before = identify(base).sha256
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").write_text(json.dumps(config))
    assert identify(base).sha256 == before
    (base / "config.json").write_text(json.dumps(config | {"scale_embedding": True}))
    assert identify(base).sha256 != before


def test_a_process_checks_its_base_again_only_if_it_changed(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Path] = []
    check = base_model.check_base
    monkeypatch.setattr(base_model, "check_base", lambda path: checks.append(path) or check(path))
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", -1.0)
    for _ in range(2):
        assert base_model.local_model(str(base)) == base
    assert len(checks) == 1
    config = json.loads((base / "config.json").read_bytes())
    write_json(base / "config.json", config | {"scale_embedding": True})
    with pytest.raises(ModelError, match="scale_embedding"):
        base_model.local_model(str(base))
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 3600.0)
    write_json(base / "config.json", config)
    for _ in range(2):  # a file that has just changed may change again
        assert base_model.local_model(str(base)) == base
    assert len(checks) == 4


@pytest.mark.parametrize(
    ("hashed", "reads"), [(file_hash, "hash_file"), (values_hash, "_hash_values")]
)
def test_a_file_is_read_again_only_if_it_changed(
    hashed: Callable[[Path], str], reads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", -1.0)
    path, read = tmp_path / "weights", []
    path.write_bytes(b"one")
    real = getattr(hashes, reads)

    def counted(file: Path) -> str:
        read.append(file)
        return real(file)

    monkeypatch.setattr(hashes, reads, counted)
    first = hashed(path)
    assert hashed(path) == first and len(read) == 1
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=times)  # the time of change still tells
    assert hashed(path) != first and len(read) == 2
    assert list((places.models() / ".hashes").glob("*.json"))


def test_what_changed_a_moment_ago_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    file_hash(path)
    assert not (places.models() / ".hashes").exists()
