"""The measurements and checks of the GPU benchmark. Each part is a function."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from models import REAL, SHAPES, make_job

from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.training.checkpoint import newest_checkpoint
from lorajob.training.dataset import lay_out
from lorajob.training.device import usual_clips

HERE = Path(__file__).parent
CLIPS, EPOCHS = 4096, 8  # as many clip views as the largest step needs for 500 steps
WARM_UP_SECONDS = 6.0
MATRIX = 8192


@dataclass
class Bench:
    """The folders of the parts, and how long they measure."""

    out: Path
    work: Path
    tokenizer: Path
    seconds: float
    clips: int

    def model(self, shape: str) -> Path:
        """The folder of a model of this shape. It is made once.

        Raises ModelError for REAL without its packages.
        """
        if shape == REAL:
            from lorajob.whisper.base_model import local_model

            return local_model(f"demo/{REAL}")
        folder = self.work / "models" / shape
        if not (folder / "model.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(HERE / "models.py"), shape, str(folder)]
            subprocess.run([*command, str(self.tokenizer)], check=True)
        return folder

    def job(self, name: str, shape: str, *sets: str, clips: int | None = None) -> JobDir:
        """Make a new job with its clips."""
        root = self.work / "jobs" / name
        shutil.rmtree(root, ignore_errors=True)
        # Validation is off: it is limited to a share of the time, and needs more packages.
        off = ("train.save_steps=100000", "train.save_seconds=0", "train.validation_clips=0")
        every = (f"train.epochs={EPOCHS}", *off, *sets)
        return make_job(root, self.model(shape), clips or self.clips, every)


def card(bench: Bench, shape: str) -> dict[str, Any]:
    """The GPU, and the rate of a large 16-bit matrix product on random data."""
    if not torch.cuda.is_available():
        return {"name": "no GPU", "tflops": None, "memory_gb": None}
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    rates = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(10):
            a @ b
        end.record()
        torch.cuda.synchronize()
        rates.append(10 * 2 * MATRIX**3 / begin.elapsed_time(end) * 1e3 / 1e12)
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gb": properties.total_memory / 1e9,
        "multiprocessors": properties.multi_processor_count,
        "tflops": sorted(rates)[2],
        "torch": torch.__version__,
    }


def start_stage(job: JobDir, facts: Path, **env: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(HERE / "stage.py"), str(facts), "train", str(job.root)]
    log = (job.root / "stage.log").open("a")
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | env
    )


def finish(stage: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait for the end of a stage. Kills it and raises TimeoutExpired if it takes longer."""
    try:
        stage.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stage.kill()
        stage.communicate()
        raise


def events(stage: "subprocess.Popen[str]") -> Any:
    assert stage.stdout is not None
    for line in stage.stdout:
        yield time.monotonic(), json.loads(line)


def lorajob(bench: Bench, shape: str, *sets: str) -> dict[str, Any]:
    """Run a training stage, and stop it as the service does when enough was measured."""
    job = bench.job(f"lorajob-{shape}-{len(sets)}", shape, *sets)
    facts = bench.work / "facts.json"
    facts.unlink(missing_ok=True)
    started = time.monotonic()
    stage = start_stage(job, facts)
    first = begun = None
    steps: tuple[int, int] = (0, 0)
    seconds, rows = 0.0, []
    for now, event in events(stage):
        if event["event"] != "progress":
            break
        first = first or now - started
        if begun is None and now - started - first > min(WARM_UP_SECONDS, bench.seconds):
            begun, steps = now, (event["step"], event["step"])
        elif begun is not None:
            seconds, steps = now - begun, (steps[0], event["step"])
            rows.append(event["waited_for_data"])
            if seconds > bench.seconds:
                stage.send_signal(signal.SIGTERM)
                break
    finish(stage, 120)
    if not seconds:
        raise RuntimeError((job.root / "stage.log").read_text()[-2000:])
    spec = json.loads(job.spec_path.read_text())
    course = lay_out(job_spec(job), job, usual_clips())
    clips = [
        clip
        for step in course.plan[steps[0] : steps[1]]
        for window in step
        for clip in window.clips
    ]
    store = course.store
    memory = json.loads(facts.read_text()) if facts.exists() else {}
    return {
        "batch_clips": course.config.batch_clips,
        "micro_batch": micro_batch(job),
        "sets": list(sets),
        "quantization": spec["train"]["quantization"],
        "steps": steps[1] - steps[0],
        "seconds": seconds,
        "clips": len(clips),
        "audio_seconds": float(sum(store.seconds[it] for it in clips)),
        "clip_sizes": [[float(store.seconds[it]), int(store.tokens[it])] for it in clips],
        "first_step_seconds": first,
        "peak_bytes": memory.get("allocated"),
        "reserved_bytes": memory.get("reserved"),
        "waited": sum(rows) / max(1, len(rows)),
        "log": (job.root / "stage.log").read_text()[-6000:],
    }


def job_spec(job: JobDir) -> JobSpec:
    return JobSpec.load(job.spec_path)


def micro_batch(job: JobDir) -> int | None:
    checkpoint = newest_checkpoint(job.checkpoints)
    if checkpoint is None:
        return None
    return int(json.loads((checkpoint.path / "state.json").read_text())["micro_batch"])


def rival(kind: str) -> Callable[[Bench, str], dict[str, Any]]:
    def measure(bench: Bench, shape: str) -> dict[str, Any]:
        job = bench.job(f"{kind}-{shape}", shape, clips=min(bench.clips, 512))
        command = [sys.executable, str(HERE / "rivals.py"), kind, str(job.root), shape]
        done = subprocess.run(
            [*command, str(bench.seconds)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        given: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return given

    return measure


def profile(bench: Bench, shape: str, *sets: str) -> dict[str, Any]:
    """The operations of a step with their time on the GPU, and the CPU's time to start them."""
    from lorajob.job.report import Report
    from lorajob.training.device import set_up_cuda
    from lorajob.training.loop import prepare
    from lorajob.whisper.identity import base_of

    set_up_cuda()
    job = bench.job(f"profile-{shape}", shape, "train.loader_workers=0", *sets)
    spec = job_spec(job)
    course = lay_out(spec, job, usual_clips())
    folder = base_of(spec, job).folder
    loop = prepare(spec, folder, course, None, Report("train", sys.stderr))
    loop._pick_micro_batch()
    batches = loop.passes.batches()
    steps = [next(batches) for _ in range(24)]
    counts = [sum(batch.label_count for batch in step) for step in steps]
    began = time.monotonic()
    for step, tokens in zip(steps[:12], counts[:12], strict=True):
        loop.run.take_step(step, tokens)
    synchronize()
    warm_up = time.monotonic() - began
    started = time.monotonic()
    for step, tokens in zip(steps[12:22], counts[12:22], strict=True):
        loop.run.take_step(step, tokens)
    launched = time.monotonic() - started
    synchronize()
    seconds = time.monotonic() - started
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=kinds) as profiler:
        loop.run.take_step(steps[22], counts[22])
        synchronize()
    by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    rows = profiler.key_averages()
    table = rows.table(sort_by=by, row_limit=60, max_name_column_width=110)
    (bench.out / f"profile-{shape}.txt").write_text(table)
    on_device = [it for it in rows if it.device_type != torch.autograd.DeviceType.CPU]
    return {
        "kernels": sum(it.count for it in on_device),
        "kernel_seconds": sum(it.self_device_time_total for it in on_device) / 1e6,
        "profiled_passes": len(steps[22]),
        "warm_up_seconds": warm_up,
        "launch_seconds_a_step": launched / 10,
        "seconds_a_step": seconds / 10,
        "passes_a_step": sum(map(len, steps[12:22])) / 10,
        "micro_batch": loop.run.micro_batch,
        "batch_clips": course.config.batch_clips,
        "recorded": loop.run.recorded is not None,
    }


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def decode(bench: Bench, shape: str) -> dict[str, Any]:
    """Greedy decoding by PyTorch: 32 clips at a time, cut to their length, 60 tokens each."""
    from lorajob.decoding.torch_engine import TorchEngine
    from lorajob.whisper.features import LogMel, pad_windows
    from lorajob.whisper.model import load_whisper
    from lorajob.whisper.tokens import Labels

    folder = bench.model(shape)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job = bench.job(f"decode-{shape}", shape, clips=64)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    engine = TorchEngine(load_whisper(folder, torch.bfloat16).to(device), Labels(folder, "hi"))
    log_mel = LogMel(engine.n_mels).to(device)
    rows = {}
    for clips in (8, 32, 64):
        audio = pad_windows([store.audio(it) for it in range(clips)], cut=True)
        engine.generate(log_mel(audio.to(device)), 4)
        synchronize()
        started = time.monotonic()
        engine.generate(log_mel(audio.to(device)), 60)
        synchronize()
        rows[str(clips)] = clips / (time.monotonic() - started)
    return {"clips_a_second": rows}


def precision(bench: Bench, shape: str) -> dict[str, Any]:
    """Loss and gradient of a packed pass in each precision, compared with float32 on a CPU.

    Weights and clips are the same.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    from lorajob.training.dataset import WindowDataset
    from lorajob.training.packed import Packer
    from lorajob.training.trainer import start_run
    from lorajob.whisper.tokens import Labels

    job = bench.job("precision", shape, clips=16)
    folder = bench.model(shape)
    course = lay_out(job_spec(job), job)
    windows = [window for step in course.plan for window in step if window.cut][:8]
    dataset = WindowDataset(course.store, Labels(folder, "hi"), windows)
    items = [dataset[index] for index in range(len(windows))]
    recorded: dict[str, bool] = {}
    kinds = {"bf16": {"precision": "bf16", "quantization": "none"}}
    if torch.cuda.is_available():
        kinds["fp16"] = {"precision": "fp16", "quantization": "none"}
        kinds["8bit"] = {"precision": "bf16", "quantization": "8bit"}
        kinds["4bit"] = {"precision": "bf16", "quantization": "4bit"}
    losses: dict[str, float] = {}
    gradients: dict[str, torch.Tensor] = {}

    def take(name: str, **update: str) -> None:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        run = start_run(folder, course.config.model_copy(update=update), 0, 10, None)
        config = run.loss.whisper.config
        given = Packer((), config.decoder_start_token_id, config.pad_token_id)(items)
        losses[name] = float(run.take_pass(given, given.label_count))
        recorded[name] = run.recorded is not None
        scale = run.accelerator.scaler.get_scale() if run.accelerator.scaler else 1.0
        gradients[name] = run.adapter.gradient.cpu() / scale

    found = torch.cuda.is_available
    try:
        torch.cuda.is_available = lambda: False
        take("float32 on a CPU", precision="float32")
    finally:
        torch.cuda.is_available = found
    for name, update in kinds.items():
        take(name, **update)
    exact = gradients["float32 on a CPU"]
    off = {name: float((it - exact).norm() / exact.norm()) for name, it in gradients.items()}
    return {"losses": losses, "gradient_off": off, "recorded": recorded}


def memory(bench: Bench, shape: str) -> dict[str, Any]:
    """Train with passes that are too large for the GPU. They are halved, and training finishes."""
    sets = ("train.epochs=1", "train.micro_batch=32", "train.batch_clips=64")
    job = bench.job(f"memory-{shape}", shape, *sets, clips=min(512, bench.clips))
    stage = start_stage(job, bench.work / "facts.json", LORAJOB_BENCH_GB="5")
    finish(stage, 100)
    log = (job.root / "stage.log").read_text()
    return {
        "exit_code": stage.returncode,
        "halved": log.count("out of memory at step"),
        "finished": job.result("train") is not None,
        "log": log[-800:],
    }


def resume(bench: Bench, shape: str) -> dict[str, Any]:
    """Kill a training after a checkpoint and restart it; compare losses with an undisturbed run."""
    clips = min(320, bench.clips)
    sets = ("train.epochs=1", "train.save_steps=10", "train.save_seconds=0")
    sets += (f"train.batch_clips={16 if clips == 320 else 1}",)
    losses = []
    resumed_from = 0
    for kill in (False, True):
        job = bench.job(f"resume-{kill}", shape, *sets, clips=clips)
        facts = bench.work / "facts.json"
        if kill:
            stage = start_stage(job, facts)
            for _, event in events(stage):
                if event["event"] == "progress" and event.get("checkpoint", 0) >= 10:
                    stage.kill()
                    break
            stage.communicate()
        stage = start_stage(job, facts)
        finish(stage, 100)
        result = job.result("train")
        if result is None:
            raise RuntimeError((job.root / "stage.log").read_text()[-2000:])
        resumed_from = result.as_json()["resumed_from"]
        lines = (job.stage_dir("train") / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    off = [abs(a - b) / a for a, b in zip(*losses, strict=True)]
    return {"resumed_from": resumed_from, "steps": len(off), "largest_difference": max(off)}


def forecast(bench: Bench, shape: str) -> dict[str, Any]:
    """Compare the forecast of a short training with what it took."""
    # Trainings of under 40 steps have no forecast.
    clips = 64 * 60 if torch.cuda.is_available() else 64
    steps = ("train.epochs=1", "train.batch_clips=64" if clips > 64 else "train.batch_clips=1")
    job = bench.job("forecast", shape, *steps, clips=clips)
    stage = start_stage(job, bench.work / "facts.json")
    finish(stage, 110)
    path = job.stage_dir("train") / "forecast.json"
    if not path.exists():
        raise RuntimeError((job.root / "stage.log").read_text()[-2000:])
    values = json.loads(path.read_text())
    return {
        "seconds": values["measured"]["seconds"] / values["eta_seconds"],
        "memory": values["measured"]["peak_memory_bytes"] / values["peak_memory_bytes"],
        **values,
    }


NAMES = (*SHAPES, REAL)
TRAININGS = {"lorajob": lorajob, "recipe": rival("recipe"), "fair": rival("fair")}
PARTS: dict[str, tuple[Callable[[Bench, str], dict[str, Any]], str]] = {
    "card": (card, ""),
    **{f"{name}-{it}": (part, it) for it in NAMES for name, part in TRAININGS.items()},
    **{f"profile-{it}": (profile, it) for it in NAMES},
    **{f"decode-{it}": (decode, it) for it in NAMES},
    "memory": (memory, "small"),
    "memory-smallest": (memory, "smallest"),
    **{f"precision-{it}": (precision, it) for it in NAMES},
    **{f"resume-{it}": (resume, it) for it in NAMES},
    **{f"forecast-{it}": (forecast, it) for it in NAMES},
}
