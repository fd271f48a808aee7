"""A job that has finished all stages, made in a second or two: random weights, given results."""

import json
import shutil
from pathlib import Path
from typing import Any

from lorajob.decoding.config import DecodeConfig, TokenLimits, write_config
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from tests.support.tiny import make_job

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RATES = {
    "base": {"wer": 80.0, "cer": 40.0, "wer_interval": [70.5, 90.25], "cer_interval": [35.0, 45.0]},
    "delivered": {
        "wer": 41.625,
        "cer": 20.125,
        "wer_interval": [31.5, 52.75],
        "cer_interval": [15.0, 25.5],
    },
    "tuned": {"wer": 40.0, "cer": 19.0, "wer_interval": [30.0, 50.0], "cer_interval": [14.0, 24.0]},
}
# An untrained model trips every threshold: it is not decoded again.
DECODING = DecodeConfig(
    language="hi",
    no_speech=None,
    temperatures=(0.0,),
    limits=TokenLimits(tokens=12, seconds=30),
)


def hub_cache(base: Path, cache: Path, name: str) -> Path:
    """The Hub's cache with `base` as OWNER/NAME at COMMIT. Returns the snapshot."""
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(base, root / "snapshots" / COMMIT))


def make_finished_job(
    root: Path, base: Path, *sets: str, base_model: str | None = None, **changes: Any
) -> JobDir:
    """A job on the base in the folder `base`, which its spec calls `base_model`.

    `changes` are fields of the evaluation's result, such as `gate`.
    """
    job = make_job(root, base, *sets)
    named = base_model or str(base)
    spec = build_spec({"language": "hi", "corpus": "hf:me/hindi", "base_model": named}, sets=sets)
    write_json(job.spec_path, spec.model_dump(mode="json"))
    identity = _identity(base, named)
    counts = {"train_clips": 12, "train_hours": 0.01, "test_clips": 4, "test_hours": 0.002}
    _rewrite_preprocess(job, identity | counts)
    adapter = _train(job, base, identity)
    _evaluate(job, identity, changes)
    _convert(job, base, adapter, identity)
    return job


def _identity(base: Path, named: str) -> dict[str, str | None]:
    from lorajob.whisper.identity import identify

    return {
        "base_sha256": identify(base).sha256,
        "base_commit": None if Path(named).is_absolute() else COMMIT,
    }


def _rewrite_preprocess(job: JobDir, fields: dict[str, Any]) -> None:
    path = job.stage_dir("preprocess") / "manifest.json"
    written = json.loads(path.read_bytes())
    write_json(path, written | {"result": written["result"] | fields})


def _train(job: JobDir, base: Path, identity: dict[str, Any]) -> Path:
    import torch

    from lorajob.training.checkpoint import save_adapter
    from lorajob.whisper.identity import identify
    from lorajob.whisper.model import load_for_training

    spec = build_spec(
        {"language": "hi", "corpus": "c", "base_model": str(base)},
        sets=("train.rank=4", "train.precision=float32", "train.quantization=none"),
    )
    torch.manual_seed(2)
    tuned = load_for_training(base, spec.train, torch.device("cpu"))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    out = job.new_attempt("train", 1)
    save_adapter(tuned, out / "adapter")
    assert identify(base).sha256 == identity["base_sha256"]
    inputs = {"preprocess": job.tree_hash("preprocess")}
    fields = {"steps": 36, "loss": 0.5, **identity, "inputs": inputs}
    job.commit("train", out, StageResult.model_validate(fields))
    return job.stage_dir("train") / "adapter"


def _evaluate(job: JobDir, identity: dict[str, Any], changes: dict[str, Any]) -> None:
    rates = {
        name: values | {"raw_wer": 90.0, "raw_cer": 50.0, "clips": 4}
        for name, values in RATES.items()
    }
    gained = {"points": 38.375, "interval": [28.0, 48.0]}
    out = job.new_attempt("evaluate", 1)
    intervals = {name: values["wer_interval"] for name, values in rates.items()}
    write_json(out / "metrics.json", rates | {"improvement": gained, "intervals": intervals})
    rows = [
        {"id": f"test-{n}.wav", "seconds": 2.0, "reference": "a b", **dict.fromkeys(RATES, "a")}
        for n in range(4)
    ]
    (out / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_config(out, DECODING)
    fields = {**rates, "improvement": gained, "notes": ["base and delivered: 4 of 4 clips"]}
    job.commit("evaluate", out, StageResult.model_validate(fields | identity | changes))


def _convert(job: JobDir, base: Path, adapter: Path, identity: dict[str, Any]) -> None:
    from lorajob.whisper import ct2
    from lorajob.whisper.model import merge_adapter

    out = job.new_attempt("convert", 1)
    merged = merge_adapter(base, adapter)
    ct2.convert(base, out / "model", "float32", merged)
    write_config(out / "model", DECODING)
    fields = {"model": "convert/model", "converted": RATES["delivered"], **identity}
    fields["converted"] = fields["converted"] | {"raw_wer": 90.0, "raw_cer": 50.0, "clips": 4}
    job.commit("convert", out, StageResult.model_validate(fields))
