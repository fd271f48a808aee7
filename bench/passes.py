"""Time a forward and backward pass by precision, dropout, adapted layers and kind of window.

    python bench/passes.py JOB_DIR

JOB_DIR is a preprocessed job. Eight clips of medium length are used in four ways: each alone in a
cut window, all eight cut windows in one pass, one clip padded to 30 s, and as many as fit packed.
The script prints CPU seconds for each clip, the best of three runs, and for the default the
arithmetic of LoRA training that it achieves, beside the rate of a plain bf16 product of matrices on
the same core. torch.compile needs a C++ compiler.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu.models import SHAPES, needed_flops

from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import MAX_LABEL_TOKENS, JobSpec, TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.training.dataset import PaddedBatch, WindowDataset, collate
from lorajob.training.loss import WhisperLoss
from lorajob.training.packing import PAUSE_SECONDS, Window
from lorajob.whisper.base_model import local_model
from lorajob.whisper.model import load_for_training
from lorajob.whisper.tokens import Labels
from lorajob.whisper.window import WINDOW_SECONDS

CLIPS = 8
MATRIX = 2048  # rows and columns of the product that shows what the core can do
DEFAULT = "bf16, all layers (the default)"
QV = ("q_proj", "v_proj")
VARIANTS: dict[str, dict[str, Any]] = {
    "float32, q and v, dropout 0.05": {
        "precision": "float32",
        "target_modules": QV,
        "dropout": 0.05,
    },
    "bf16, q and v, dropout 0.05": {"target_modules": QV, "dropout": 0.05},
    "bf16, q and v": {"target_modules": QV},
    "bf16, all layers, dropout 0.05": {"dropout": 0.05},
    DEFAULT: {},
    "bf16, all layers, rank 8": {"rank": 8, "alpha": 16},
    "bf16, decoder only": {"decoder_only": True},
}
# Alternatives that were tried: name -> (settings, change).
TRIED = {
    "bf16, all layers, torch.compile": ({}, "compile"),
    "bf16, decoder only, torch.compile": ({"decoder_only": True}, "compile"),
    "bf16, decoder only, the encoder's outputs at hand": ({"decoder_only": True}, "stored"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--only", help="measure this row alone")
    args = parser.parse_args()
    job = JobDir(args.job_dir)
    torch.set_num_threads(1)
    spec = JobSpec.load(job.spec_path)
    folder = local_model(spec.base_model)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    labels = Labels(folder, find_language(spec.language).token)
    kinds = windows(store)
    print("| | " + " | ".join(kinds) + " |")
    print("| --- |" + " ---: |" * len(kinds))
    plain = {name: (values, "") for name, values in VARIANTS.items()}
    rows = {name: it for name, it in (plain | TRIED).items() if args.only in (None, name)}
    default: list[float] = []
    for name, (values, how) in rows.items():
        torch.compiler.reset()
        config = TrainConfig(**{"precision": "bf16", **values})
        model = load_for_training(folder, config, torch.device("cpu"))
        costs = [cost(model, config, store, labels, batch, how) for batch in kinds.values()]
        print(f"| {name} | " + " | ".join(f"{it:.2f}" for it in costs) + " |", flush=True)
        default = costs if name == DEFAULT else default
    if default:
        print_rates(store, kinds, default)
    return 0


def print_rates(store: ClipStore, kinds: dict[str, Sequence[Window]], costs: list[float]) -> None:
    """The arithmetic that whisper-base needs for the clips, a second, and that of a product."""
    product = matrix_rate()
    print(f"\na {MATRIX} x {MATRIX} bf16 product: {product / 1e9:.0f} GFLOP/s of CPU time")
    for (kind, given), seconds in zip(kinds.items(), costs, strict=True):
        clips = [clip for window in given for clip in window.clips]
        needed = needed_flops(SHAPES["base"], store.seconds[clips], store.tokens[clips])
        rate = needed / len(clips) / seconds
        print(f"{kind}: {rate / 1e9:.0f} GFLOP/s, {100 * rate / product:.0f} %")


def matrix_rate() -> float:
    """Operations a second of CPU time, the best of five products."""
    left, right = torch.randn(2, MATRIX, MATRIX).bfloat16()
    taken = []
    for _ in range(5):
        started = time.process_time()
        left @ right
        taken.append(time.process_time() - started)
    return 2 * MATRIX**3 / min(taken)


def windows(store: ClipStore) -> dict[str, Sequence[Window]]:
    """One pass of each kind."""
    order = sorted(range(len(store)), key=lambda clip: store.seconds[clip])
    start = max(0, len(order) // 2 - CLIPS // 2)
    chosen = order[start : start + CLIPS]
    packed: list[int] = []
    for clip in chosen:
        fuller = [*packed, clip]
        seconds = sum(float(store.seconds[it]) + PAUSE_SECONDS for it in fuller)
        if seconds <= WINDOW_SECONDS and store.tokens[fuller].sum() <= MAX_LABEL_TOKENS:
            packed = fuller
    return {
        "cut, alone": [Window((chosen[0],), False, cut=True)],
        "cut, eight a pass": [Window((clip,), False, cut=True) for clip in chosen],
        "padded": [Window((chosen[0],), False)],
        "packed": [Window(tuple(packed), False)],
    }


def cost(
    model: Any,
    config: TrainConfig,
    store: ClipStore,
    labels: Labels,
    given: Sequence[Window],
    how: str = "",
) -> float:
    """CPU seconds of a pass for each clip, the least of three runs.

    A run before them warms up; in it, torch.compile compiles the pass.
    """
    loss = WhisperLoss(model).train()
    dataset = WindowDataset(store, labels, given)
    batch = collate([dataset[index] for index in range(len(given))])
    taken = []
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        with torch.no_grad():
            heard = PaddedBatch(batch.labels, batch.counted, encoded=loss.encode(batch.audio))
        compiled = torch.compile(loss) if how == "compile" else loss
        for _ in range(4):
            started = time.process_time()
            compiled(heard if how == "stored" else batch).backward()
            taken.append(time.process_time() - started)
    return min(taken[1:]) / sum(len(window.clips) for window in given)


if __name__ == "__main__":
    sys.exit(main())
