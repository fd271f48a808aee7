import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorajob import train
from lorajob.errors import ModelError, StageStopped, UsageError
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_STOPPED, Report
from lorajob.spec import JobSpec, TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.training.checkpoint import newest_checkpoint
from lorajob.training.dataset import IGNORED, WindowDataset, collate
from lorajob.training.history import LOG_SECONDS, StepLog
from lorajob.training.loss import WhisperLoss
from lorajob.training.packing import Window
from lorajob.training.trainer import Run, learning_rate_factor, pick_learning_rate
from lorajob.whisper.model import load_for_training, pick_precision, pick_quantization
from lorajob.whisper.tokens import Labels
from tests.support.tiny import SENTENCES, make_job
from tests.support.training import FLOAT32, SHORT, StopAt, adapter_bytes, history


@pytest.fixture(scope="module")
def undisturbed(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    job = make_job(tmp_path_factory.mktemp("undisturbed"), tiny_whisper, *SHORT)
    run_stage("train", job, 1, Report("train"))
    return job


def test_the_loss_falls(tiny_whisper: Path, tmp_path: Path) -> None:
    every = "train.target_modules=[q_proj,k_proj,v_proj,out_proj,fc1,fc2]"
    sets = (*SHORT, every, "train.epochs=24", "train.learning_rate=0.01")
    job = make_job(tmp_path, tiny_whisper, *sets, "train.interpolate=auto")
    result = run_stage("train", job, 1, Report("train"))
    whole = "train.interpolate=auto: the training is kept whole: no clips are held back"
    assert result.warnings == [whole]
    losses = [row["loss"] for row in history(job)]
    assert len(losses) == result.as_json()["steps"]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.15  # frozen random layers allow no more


def test_a_share_of_the_training_scales_what_is_delivered(
    undisturbed: JobDir, tiny_whisper: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT, "train.interpolate=0.25")
    assert run_stage("train", job, 1, Report("train")).as_json()["share"] == 0.25
    whole, part = (
        load_file(it.stage_dir("train") / "adapter" / "adapter_model.safetensors")
        for it in (undisturbed, job)
    )
    assert whole.keys() == part.keys() and any("lora_B" in name for name in whole)
    # The update is the product of both matrices.
    for name, weights in whole.items():
        share = 0.25 if "lora_B" in name else 1.0
        torch.testing.assert_close(part[name], share * weights)


def test_training_leaves_a_peft_adapter_a_history_and_tensorboard_files(
    undisturbed: JobDir,
) -> None:
    folder = undisturbed.stage_dir("train")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (8, 64, None)
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"audio": 0})
    board.Reload()
    row = history(undisturbed)[-1]
    assert board.Scalars("train/loss")[-1].value == pytest.approx(row["loss"])
    assert board.Tags()["audio"] == [f"clip {number}/sound" for number in range(1, 6)]
    assert board.Audio("clip 1/sound")[0].sample_rate == 16_000
    texts = {name: board.Tensors(f"{name}/text_summary")[0] for name in ("clip 2/said", "settings")}
    assert texts["clip 2/said"].tensor_proto.string_val[0].decode() == SENTENCES[1]
    assert b"| train.rank | 8 |" in texts["settings"].tensor_proto.string_val[0]
    assert {"loss", "learning_rate", "tokens_per_second", "clips_per_second"} < set(row)


def test_the_decoder_sees_one_start_token(tiny_whisper: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_whisper)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    dataset = WindowDataset(store, Labels(tiny_whisper, "hi"), [Window((0, 1), False)])
    batch = collate([dataset[0]])
    model = load_for_training(
        tiny_whisper, TrainConfig(rank=4, precision="float32"), torch.device("cpu")
    )
    given = WhisperLoss(model).decoder_input(batch.labels)[0].tolist()
    labels = Labels(tiny_whisper, "hi")
    assert given[:4] == labels.prompt
    assert given.count(labels.start) == 1
    said = [it for it in batch.labels[0].tolist() if it != IGNORED]
    assert given[1 : len(said)] == said[:-1]


def test_the_loss_is_that_of_transformers(tiny_whisper: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_whisper)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    windows = [Window((0, 1), False), Window((2,), False)]
    dataset = WindowDataset(store, Labels(tiny_whisper, "hi"), windows)
    batch = collate([dataset[0], dataset[1]])
    model = load_for_training(
        tiny_whisper, TrainConfig(rank=4, precision="float32"), torch.device("cpu")
    ).eval()
    ours = WhisperLoss(model).eval()
    counted = batch.labels.clone()
    counted[:, :3] = IGNORED  # the prompt
    with torch.no_grad():
        features = ours.log_mel(batch.audio)
        given = ours.decoder_input(batch.labels)
        whisper = model.get_base_model()
        theirs = whisper(input_features=features, decoder_input_ids=given, labels=counted).loss
        summed = ours(batch)
    assert float(summed) / batch.label_count == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("step", [2, 3, 7])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    tiny_whisper: Path, tmp_path: Path, undisturbed: JobDir, step: int
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT)
    with pytest.raises(StageStopped, match=f"step {step}"):
        run_stage("train", job, 1, StopAt(step))
    assert job.result("train") is None
    torch.rand(3)  # whatever else was drawn since
    result = run_stage("train", job, 2, Report("train"))
    assert result.as_json()["resumed_from"] == step
    assert adapter_bytes(job) == adapter_bytes(undisturbed)
    strip = [{k: row[k] for k in ("step", "loss", "learning_rate")} for row in history(job)]
    assert strip == [
        {k: row[k] for k in ("step", "loss", "learning_rate")} for row in history(undisturbed)
    ]


def test_a_stop_signalled_to_loader_processes_too_leaves_a_checkpoint(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    sets = (*SHORT, "train.loader_workers=2", "train.epochs=200", "train.save_steps=10000")
    job = make_job(tmp_path, tiny_whisper, *sets)
    stage = subprocess.Popen(
        [sys.executable, "-m", "lorajob.stage", "train", str(job.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with stage:
        assert stage.stdout is not None
        assert '"step": 1,' in stage.stdout.readline()
        os.killpg(stage.pid, signal.SIGTERM)
        stage.stdout.read()
        assert stage.wait(timeout=240) == EXIT_STOPPED
    newest = newest_checkpoint(job.checkpoints)
    assert newest is not None
    assert newest.step >= 1


def test_a_loss_that_is_no_number_fails_the_stage(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT)
    monkeypatch.setattr(Run, "take_step", lambda self, batches, tokens: torch.tensor(math.nan))
    with pytest.raises(ModelError, match=r"the loss is nan .* lower train\.learning_rate"):
        run_stage("train", job, 1, Report("train"))


@pytest.fixture(scope="module")
def stopped(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> JobDir:
    """A training that was stopped at step 4; not to be changed."""
    job = make_job(tmp_path_factory.mktemp("stopped"), tiny_whisper, *SHORT)
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(4))
    return job


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest"])
def test_a_broken_checkpoint_is_passed_over(
    stopped: JobDir, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = JobDir(Path(shutil.copytree(stopped.root, tmp_path / "job")))
    newest = newest_checkpoint(job.checkpoints)
    assert newest is not None
    assert newest.step == 4
    file = newest.path / "adapter_model.safetensors"
    data = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(data[:-1])
    elif damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        (newest.path / "manifest.json").unlink()
    older = newest_checkpoint(job.checkpoints)
    assert older is not None
    assert older.step == 3
    assert "step-4 is broken and set aside as" in caplog.text
    assert [path.name for path in (job.checkpoints / "broken").iterdir()] == ["1-step-4"]


def test_a_finished_stage_run_again_is_a_no_op(undisturbed: JobDir) -> None:
    before = adapter_bytes(undisturbed)
    stamp = (undisturbed.stage_dir("train") / "manifest.json").stat().st_mtime_ns
    result = run_stage("train", undisturbed, 9, Report("train"))
    assert result == undisturbed.result("train")
    assert adapter_bytes(undisturbed) == before
    assert (undisturbed.stage_dir("train") / "manifest.json").stat().st_mtime_ns == stamp


def test_micro_batches_change_no_step(tiny_whisper: Path, tmp_path: Path) -> None:
    sets = (*SHORT, "train.dropout=0", "train.packing=false", "train.batch_clips=4")
    losses = []
    for size in (1, 2, 4):
        job = make_job(tmp_path / str(size), tiny_whisper, *sets, f"train.micro_batch={size}")
        run_stage("train", job, 1, Report("train"))
        losses.append([row["loss"] for row in history(job)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(("kind", "layer"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_quantised_bases_train_on_the_cpu(
    tiny_whisper: Path, tmp_path: Path, kind: str, layer: str
) -> None:
    import bitsandbytes

    config = TrainConfig(quantization=kind, precision="float32", rank=4)
    model = load_for_training(tiny_whisper, config, torch.device("cpu"))
    quantised = [it for it in model.modules() if isinstance(it, getattr(bitsandbytes.nn, layer))]
    assert len(quantised) == 2 * 6 + 2 * 10  # of two encoder and two decoder layers
    sets = ("train.epochs=1", "train.batch_clips=2", f"train.quantization={kind}", FLOAT32)
    job = make_job(tmp_path, tiny_whisper, *sets, "train.gradient_checkpointing=true", clips=4)
    result = run_stage("train", job, 1, Report("train"))
    assert result.as_json()["steps"] == 2
    losses = [row["loss"] for row in history(job)]
    assert all(0 < loss < 20 for loss in losses)
    from safetensors.torch import load_file

    adapter = load_file(job.stage_dir("train") / "adapter" / "adapter_model.safetensors")
    grown = [name for name, weight in adapter.items() if "lora_B" in name and weight.any()]
    assert len(grown) == sum("lora_B" in name for name in adapter)


def test_the_recipe_trains_one_percent_of_the_weights(whisper_base: Path) -> None:
    config = TrainConfig(target_modules=("q_proj", "v_proj"))
    model = load_for_training(whisper_base, config, torch.device("cpu"))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name for name in trained)
    assert train.trainable_parameters(model) == 2 * 18 * 2 * 32 * 512  # q and v, 18 attentions


def test_a_decoder_only_adapter_leaves_the_encoder_alone(tiny_whisper: Path) -> None:
    config = TrainConfig(decoder_only=True)
    model = load_for_training(tiny_whisper, config, torch.device("cpu"))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert not [name for name in trained if ".encoder." in name]
    assert [name for name in trained if ".encoder_attn." in name]


def test_the_learning_rate_falls_with_the_models_width() -> None:
    assert pick_learning_rate(512) == pytest.approx(1e-3)
    assert pick_learning_rate(512, 4) == pytest.approx(1e-3 / 2**0.5)
    assert pick_learning_rate(1280) < pick_learning_rate(768) < pick_learning_rate(384)
    assert pick_learning_rate(768, 16) == pytest.approx(pick_learning_rate(768) * 2**0.5)
    assert pick_learning_rate(512, 64) == pick_learning_rate(768, 64) == pytest.approx(1e-3)
    assert pick_learning_rate(384, 64) == pick_learning_rate(384)


def test_what_auto_means_depends_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    base = tmp_path / "whisper-large-v3"  # known by its name
    assert pick_quantization(base, TrainConfig(), cpu) == "none"
    assert pick_quantization(base, TrainConfig(quantization="4bit"), cpu) == "4bit"
    for free_gb, quantization in ((79, "none"), (14.5, "none"), (13, "8bit"), (8, "4bit")):
        free = int(free_gb * 1e9), 0
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: free)
        assert pick_quantization(base, TrainConfig(), cuda) == quantization, free_gb
    for computes, precision in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(
            "lorajob.whisper.model.cpu_computes_bf16", lambda computes=computes: computes
        )
        assert pick_precision("auto", cpu) == precision


def test_bf16_trains_and_fp16_needs_a_gpu(tiny_whisper: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "bf16", tiny_whisper, *SHORT, "train.precision=bf16", clips=4)
    run_stage("train", job, 1, Report("train"))
    assert all(0 < row["loss"] < 20 for row in history(job))
    job = make_job(tmp_path / "fp16", tiny_whisper, *SHORT, "train.precision=fp16", clips=4)
    with pytest.raises(UsageError, match=r"train\.precision: 'fp16' needs a GPU"):
        run_stage("train", job, 1, Report("train"))


def test_modules_that_fit_no_layer_are_one_error(tiny_whisper: Path) -> None:
    config = TrainConfig(target_modules=("query",))
    with pytest.raises(ModelError, match=r"train\.target_modules: 'query' fits no layer"):
        load_for_training(tiny_whisper, config, torch.device("cpu"))


def test_warm_up_is_at_most_a_tenth_and_the_rate_ends_at_zero() -> None:
    factors = [learning_rate_factor(step, 10, 40, 100) for step in range(101)]
    assert max(factors) == 1.0
    assert factors.index(1.0) == 10
    assert factors[60] == 1.0
    assert factors[80] == pytest.approx(0.5)
    assert factors[100] == 0.0
    assert learning_rate_factor(10, 10, 100, 100) == 1.0
    assert JobSpec.model_fields["train"].default.warmup_steps == 50


def test_the_log_has_the_first_step_the_last_and_some_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="lorajob.training.history")
    now = [0.0]
    steps = StepLog(lambda: now[0])
    fields = {"loss": 2.34567, "learning_rate": 0.001, "clips_per_second": 3.04}
    for step in range(1, 1001):
        now[0] += 0.1 * LOG_SECONDS
        steps.note(step, 1000, fields, 65.4)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        "step 1 of 1000: loss 2.346, learning rate 0.001, 3.0 clips a second, 0:01:05 left"
    )
    assert said[1].startswith("step 11 of 1000") and said[-1].startswith("step 1000 of 1000")
    assert len(said) == 101
