import json
from pathlib import Path

import pytest
import torch

from lorajob import convert
from lorajob.decoding.config import read_config
from lorajob.errors import ParityError
from lorajob.gate.conversion import Converted
from lorajob.job.jobdir import JobDir, hash_file, write_json
from lorajob.job.report import Report
from lorajob.stage import run_stage
from lorajob.whisper import ct2
from lorajob.whisper.model import load_whisper
from tests.support.tiny import make_job, make_tiny_whisper

pytestmark = pytest.mark.usefixtures("brief")
TYPES = ("float16", "int8", "int8_float32", "int8_float16", "float32")
SETS = (
    "train.epochs=1",
    "train.rank=4",
    "evaluate.batch_size=2",
    f"convert.compute_types=[{','.join(TYPES)}]",
)


@pytest.fixture(scope="module")
def trained(tiny_whisper: Path, brief: None, tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    job = make_job(tmp_path_factory.mktemp("trained"), tiny_whisper, *SETS, clips=6)
    run_stage("train", job, 1, Report("train"))
    return job


@pytest.fixture(scope="module")
def converted(trained: JobDir) -> JobDir:
    run_stage("evaluate", trained, 1, Report("evaluate"))
    run_stage("convert", trained, 1, Report("convert"))
    return trained


def test_evaluation_leaves_a_row_an_utterance(converted: JobDir) -> None:
    folder = converted.stage_dir("evaluate")
    rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    fields = {"id", "seconds", "reference", "base", "delivered", "tuned", "base_errors"}
    assert fields <= set(rows[0])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["base"]["clips"] == metrics["tuned"]["clips"] == 4
    low, high = metrics["intervals"]["tuned"]
    assert low <= metrics["tuned"]["wer"] <= high
    assert not (folder / "scratch").exists()


def test_a_finished_job_has_its_report(converted: JobDir) -> None:
    page = converted.report_path.read_text("utf-8")
    assert f"{converted.result('evaluate').delivered.wer:.1f} %" in page  # type: ignore[union-attr]
    assert "<audio" in page and 'id="data-loss"' in page


def test_every_type_is_made_scored_and_complete(converted: JobDir) -> None:
    folder = converted.stage_dir("convert")
    result = converted.result("convert")
    assert result is not None
    assert tuple(result.by_type) == TYPES
    for name in ["model", *(f"model-{kind}" for kind in TYPES[1:])]:
        files = {path.name for path in (folder / name).iterdir()}
        assert {
            "model.bin",
            "config.json",
            "tokenizer.json",
            "preprocessor_config.json",
            "vocabulary.json",
        } <= files
        config = json.loads((folder / name / "config.json").read_text())
        assert len(config["lang_ids"]) == 99
        assert config["alignment_heads"] == [[1, 0], [1, 1]]
        assert 220 in config["suppress_ids_begin"]
        assert config["suppress_ids"]


def test_parity_is_measured_and_far_below_its_limit(converted: JobDir) -> None:
    parity = json.loads((converted.stage_dir("convert") / "parity.json").read_text())
    assert 0 < parity["max_logprob_difference"] < 1e-4
    assert {"merged", "float16", "int8"} <= set(parity["sample_scores"])
    assert len(parity["faster_whisper"]) == 4
    assert parity["sample_clips"] == 4


def test_what_is_converted_is_what_was_measured(converted: JobDir) -> None:
    measured = json.loads((converted.stage_dir("evaluate") / "metrics.json").read_text())
    folder = converted.stage_dir("convert")
    assert hash_file(folder / "model" / "model.bin") == measured["model_sha256"]
    config = read_config(converted.stage_dir("evaluate"))
    assert config is not None
    for name in ["model", *(f"model-{kind}" for kind in TYPES[1:])]:
        assert read_config(folder / name) == config


def test_conversion_without_the_cache_and_after_an_older_evaluation_gives_the_same(
    converted: JobDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_CACHE_GB", "0")
    monkeypatch.setattr("lorajob.storage.places.cache", lambda: tmp_path / "cache")
    job = JobDir(tmp_path / "job")
    job.root.mkdir()
    for name in ("preprocess", "train"):
        (job.root / name).symlink_to(converted.stage_dir(name))
    old = json.loads((converted.stage_dir("evaluate") / "manifest.json").read_text())
    older = {name: old["result"][name] for name in ("base", "tuned")}
    job.stage_dir("evaluate").mkdir()
    write_json(job.stage_dir("evaluate") / "manifest.json", {"files": {}, "result": older})
    job.spec_path.write_bytes(converted.spec_path.read_bytes())
    run_stage("convert", job, 1, Report("convert"))
    again, first = job.result("convert"), converted.result("convert")
    assert again is not None and again.converted is not None and again.converted.clips == 4
    assert first is not None and again.max_logprob_difference == pytest.approx(
        first.max_logprob_difference, abs=1e-4
    )
    name = Path("model", "model.bin")
    folders = [it.stage_dir("convert") for it in (converted, job)]
    assert hash_file(folders[0] / name) == hash_file(folders[1] / name)


@pytest.mark.parametrize("kind", TYPES)
def test_a_conversion_leaves_the_model_as_it_is(
    tiny_whisper: Path, tmp_path: Path, kind: str
) -> None:
    model = load_whisper(tiny_whisper)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ct2.convert(tiny_whisper, tmp_path / "model", kind, model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_conversion_of_something_else_fails_the_stage(
    converted: JobDir, tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JobDir(tmp_path)
    for name in ("preprocess", "train", "evaluate"):
        (tmp_path / name).symlink_to(converted.stage_dir(name))
    job.spec_path.write_bytes(converted.spec_path.read_bytes())
    real = ct2.convert

    def convert_the_untuned(folder: Path, target: Path, kind: str, model: object) -> Path:
        return real(tiny_whisper, target, kind)

    monkeypatch.setattr(convert.ct2, "convert", convert_the_untuned)
    with pytest.raises(ParityError, match=r"token \d+: log-probability -\d.* against -\d"):
        run_stage("convert", job, 1, Report("convert"))
    assert job.result("convert") is None


def test_a_model_of_128_mel_bins_goes_through(whisper_base: Path, tmp_path: Path) -> None:
    large = make_tiny_whisper(whisper_base, tmp_path / "base", mel_bins=128)
    job = make_job(tmp_path / "job", large, "train.epochs=1", "train.rank=4", clips=4)
    for stage in ("train", "evaluate", "convert"):
        run_stage(stage, job, 1, Report(stage))
    folder = job.stage_dir("convert") / "model"
    assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 128


def test_a_type_that_is_apart_is_warned_about_and_what_may_be_chance_is_named() -> None:
    said = [f"one two three clip{number}" for number in range(16)]
    one = [*said[:15], "one two four clip15"]
    most = [*said[:4], *(text.replace("three", "four") for text in said[4:])]
    found = Converted(said, said, {"float16": one, "int8": most, "float32": said}, "en")
    chance, sure = convert.type_warnings(found)
    assert chance == (
        "float16: WER 1.56 % on 16 clips, 0.00 % before the conversion; the rise is 0.0 to 4.7 "
        "points (95 %), so it may be chance"
    )
    assert sure.startswith("int8: WER 18.75 % on 16 clips, 0.00 % before the conversion; the rise")
    assert sure.endswith("points (95 %)")
    alone = Converted(said[:1], said[:1], {"int8": ["one"]}, "en")
    assert convert.type_warnings(alone) == [
        "int8: WER 75.00 % on 1 clip, 0.00 % before the conversion; of one clip that may be chance"
    ]
