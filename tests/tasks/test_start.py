"""A job that starts from the adapter of another one: what fits, what is copied, what is trained."""

import json
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorajob.bundle.card import CardOptions, write_card
from lorajob.bundle.facts import read_facts
from lorajob.bundle.layout import Layout
from lorajob.errors import ModelError, UsageError
from lorajob.job.chain import chain_faults
from lorajob.job.jobdir import ADAPTER_FILES, ADAPTER_WEIGHTS, TEXT, JobDir, hash_file, write_json
from lorajob.job.report import Report
from lorajob.spec import JobSpec, build_spec
from lorajob.stage import run_stage
from lorajob.storage.store import DamageError, Store
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.naming import name_start
from lorajob.tasks.start import encoder_alpha
from lorajob.training.dataset import lay_out
from lorajob.training.loop import prepare
from lorajob.training.start import start_folder
from lorajob.whisper.identity import identify
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.records.names import Naming
from lorajob.worker.records.record import JobRecord, new_stages
from lorajob.worker.records.records import Records
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt

RANK = ("train.rank=4", "train.precision=float32")


@pytest.fixture
def source(jobs: Jobs, finished_job: Path) -> JobDir:
    """A finished job with an adapter of rank 4, and its record."""
    return take_in(jobs, finished_job)


def take_in(jobs: Jobs, folder: Path, state: str = "succeeded") -> JobDir:
    job = JobDir(Path(shutil.copytree(folder, jobs.settings.jobs / "hi-00000001")))
    spec = JobSpec.load(job.spec_path)
    stages = new_stages()
    stages["train"] = stages["train"].model_copy(
        update={"state": state, "result": job.result("train"), "attempt": 1}
    )
    record = JobRecord(
        id=job.root.name,
        language="hi",
        created_at=time.time(),
        corpus=spec.corpus,
        base_model=spec.base_model,
        folder=str(job.root),
        name="first",
        stages=stages,
    )
    jobs.records.create(record)
    return job


def asked(tmp_path: Path, *sets: str, **values: object) -> JobSpec:
    corpus = tmp_path / "m.tsv"
    corpus.write_text("audio\ttext\na.wav\tनमस्ते\n", "utf-8")
    (tmp_path / "a.wav").touch()
    start = {"job": "hi-00000001"}
    return build_spec(
        {"language": "hi", "corpus": str(corpus), "start": start, **values}, sets=sets
    )


def adapter_of(job: JobDir) -> Path:
    return job.stage_dir("train") / "adapter"


def test_a_new_job_takes_base_shape_and_adapter_of_the_other(
    jobs: Jobs, source: JobDir, tmp_path: Path, tiny_whisper: Path
) -> None:
    named = build_spec({"language": "hi", "corpus": "c", "start": {"job": "first"}})
    assert name_start(jobs, named).start.job == "hi-00000001"
    new = JobDir(jobs.settings.jobs / jobs.submit(asked(tmp_path), naming=Naming("second", {})))
    spec = JobSpec.load(new.spec_path)
    assert (spec.base_model, spec.train.rank, spec.train.alpha) == (str(tiny_whisper), 4, 64)
    assert spec.start.adapter_sha256 == hash_file(adapter_of(source) / ADAPTER_WEIGHTS)
    # The new job does not need the other one any more.
    shutil.rmtree(source.root)
    for name in ADAPTER_FILES:
        assert (new.start / name).is_file()
    assert hash_file(new.start / ADAPTER_WEIGHTS) == spec.start.adapter_sha256


@pytest.mark.parametrize(
    ("sets", "values", "why"),
    [
        (
            ["train.rank=8", "train.dora=true"],
            {},
            r"has train\.rank=4, train\.dora=false; this job sets 8, true: leave these settings",
        ),
        (["train.target_modules=[q_proj]"], {}, r"train\.target_modules=\[.*sets \[q_proj\]"),
        (["train.encoder_alpha=0.5"], {}, r"has train\.encoder_alpha=1\.0; this job sets 0\.5"),
        (["train.decoder_only=true"], {}, r"has train\.decoder_only=false; this job sets true"),
        ([], {"base_model": "openai/whisper-tiny"}, r"^base_model: openai/whisper-tiny is not the"),
        (
            [],
            {"start": {"job": "hi-00000001", "adapter_sha256": "0" * 64}},
            r"is another one than the settings name: sha256 [0-9a-f]{64}",
        ),
    ],
)
def test_another_shape_base_or_adapter_is_one_line_at_submit(
    jobs: Jobs, source: JobDir, tmp_path: Path, sets: list[str], values: dict, why: str
) -> None:
    with pytest.raises(UsageError, match=why) as error:
        jobs.submit(asked(tmp_path, *sets, **values))
    assert "\n" not in str(error.value)
    assert [it.name for it in jobs.settings.jobs.iterdir()] == [source.root.name]
    # The same shape may be named.
    same = asked(
        tmp_path, "train.rank=4", "train.target_modules=[fc2,fc1,q_proj,k_proj,v_proj,out_proj]"
    )
    assert jobs.resolve(same).train.rank == 4
    assert encoder_alpha({"lora_alpha": 64}) == 1.0  # of an older lorajob
    assert encoder_alpha({"lora_alpha": 64, "alpha_pattern": {"encoder": 16.0}}) == 0.25
    assert encoder_alpha({"lora_alpha": 3, "alpha_pattern": {"encoder": 3 * 0.7}}) == 0.7


def test_a_job_without_an_adapter_and_a_damaged_one_are_one_line(
    jobs: Jobs, finished_job: Path, tmp_path: Path
) -> None:
    source = take_in(jobs, finished_job, "running")
    with pytest.raises(UsageError, match="no adapter yet: its stage train is running"):
        jobs.submit(asked(tmp_path))
    Records(jobs.redis).delete(source.root.name)
    shutil.rmtree(source.root)
    source = take_in(jobs, finished_job)
    path = adapter_of(source) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UsageError, match=r"^train\.interpolate: 0\.5 is not allowed"):
        jobs.submit(asked(tmp_path, "train.interpolate=0.5"))
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"cannot be read: 'r' is missing; `lorajob verify hi-0"):
        jobs.submit(asked(tmp_path))


def test_a_store_has_the_adapter_and_the_text_for_every_machine(
    jobs: Jobs, source: JobDir, tmp_path: Path
) -> None:
    url = f"memory://start-{tmp_path.name}/jobs"
    there = jobs.settings.model_copy(update={"artifacts": url, "corpora_everywhere": True})
    there = there.model_copy(update={"corpora": tmp_path, "home": tmp_path / "home"})
    stored = Jobs(there)
    stored._send = lambda record: None  # type: ignore[method-assign]
    Store(f"{url}/hi-00000001").upload(source.spec_path, "spec.json")
    JobStore(f"{url}/hi-00000001", source.root.parent).push("train", 1)
    text = tmp_path / "news.txt"
    text.write_text("एक वाक्य\n", "utf-8")
    job_id = stored.submit(asked(tmp_path, f"evaluate.text={text}"))
    copy = JobStore(f"{url}/{job_id}", tmp_path / "elsewhere")
    out = copy.job.new_attempt("preprocess", 1)
    (out / "train").mkdir()
    (out / "train" / "rows.arrow").write_text("clips")
    copy.job.commit("preprocess", out, jobs.load("hi-00000001").stages["train"].result)
    copy.push("preprocess", 1)
    record = stored.load(job_id)
    done = {
        name: record.stages[name].model_copy(update={"attempt": 1})
        for name in ("preprocess", "train")
    }
    record = record.model_copy(update={"stages": record.stages | done})
    copy.fetch_for("train", record)
    for name in ADAPTER_FILES:
        assert (copy.job.start / name).read_bytes() == (adapter_of(source) / name).read_bytes()
    Store(f"{url}/{job_id}").write(f"start/{ADAPTER_WEIGHTS}", b"other")
    other = JobStore(f"{url}/{job_id}", tmp_path / "third")
    with pytest.raises(DamageError, match=f"start/{ADAPTER_WEIGHTS} is not as submitted"):
        other.fetch_for("train", record)
    result = source.result("train")
    assert result is not None
    copy.job.commit("train", copy.job.new_attempt("train", 1), result)
    copy.push("train", 1)
    # The evaluation chooses the weights of the text on clips of the training.
    evaluating = JobStore(f"{url}/{job_id}", tmp_path / "fourth")
    evaluating.fetch_for("evaluate", record)
    assert evaluating.job.text.read_bytes() == text.read_bytes()
    assert (evaluating.job.stage_dir("preprocess") / "train" / "rows.arrow").exists()
    Store(f"{url}/{job_id}").write(TEXT, b"other")
    evaluating.job.text.unlink()
    with pytest.raises(DamageError, match="book/text is not as submitted"):
        evaluating.fetch_for("evaluate", record)


def test_the_training_begins_with_the_adapter_and_says_so(
    tiny_whisper: Path, tmp_path: Path, finished_job: Path
) -> None:
    adapter = finished_job / "train" / "adapter"
    sha256 = hash_file(adapter / ADAPTER_WEIGHTS)
    start = ("start.job=hi-1", f"start.adapter_sha256={sha256}")
    job = make_job(tmp_path / "hi-2", tiny_whisper, *SHORT, *RANK, *start, "train.epochs=1")
    spec, base = JobSpec.load(job.spec_path), identify(tiny_whisper).sha256
    with pytest.raises(ModelError, match=r"adapter of hi-1 cannot be read.*submit the job again"):
        start_folder(spec, job, base)
    shutil.copytree(adapter, job.start)
    loop = prepare(
        spec, tiny_whisper, lay_out(spec, job), None, Report("train"), start_folder(spec, job, base)
    )
    theirs = load_file(adapter / ADAPTER_WEIGHTS)
    ours = {name: it for name, it in loop.run.model.state_dict().items() if "lora_" in name}
    assert len(ours) == len(theirs) > 0
    for name, tensor in theirs.items():
        assert ours[name.replace(".weight", ".default.weight")].equal(tensor)
    # The dropout is this job's own.
    assert loop.run.model.peft_config["default"].lora_dropout == 0.1
    assert lay_out(spec, job).digest.endswith(f"/{sha256}")

    with pytest.raises(Exception, match="step 2"):
        run_stage("train", job, 1, StopAt(2))
    result = run_stage("train", job, 2, Report("train"))
    assert (result.start, result.start_sha256) == ("hi-1", sha256)
    assert result.as_json()["resumed_from"] == 2
    options = CardOptions("t", None, None, False)
    card = write_card(read_facts(job), Layout("", None, (), None), options)
    assert f"- Started from the adapter of job `hi-1`, `sha256:{sha256}`\n- lorajob" in card
    assert not list(chain_faults(job))

    config = json.loads((job.start / "adapter_config.json").read_text())
    write_json(
        job.start / "adapter_config.json", config | {"auto_mapping": {"base_sha256": "0" * 64}}
    )
    with pytest.raises(ModelError, match="is for another base model: sha256 0000"):
        start_folder(spec, job, base)
    (job.start / ADAPTER_WEIGHTS).write_bytes(b"other")
    with pytest.raises(ModelError, match="is not the adapter that was submitted"):
        start_folder(spec, job, base)
    assert "train started from" in "".join(chain_faults(job))
