"""Rivals of lorajob on a GPU: the public recipe, and a fair baseline. Prints JSON.

    python bench/gpu/rivals.py recipe|fair JOB_DIR SHAPE SECONDS

Both pad each clip to 30 s. The recipe is that of bench/seed_recipe.py: Seq2SeqTrainer, 8 bit, fp16,
eight clips in a step, gradient checkpointing by PEFT's default, features from a datasets file. The
baseline is what a careful user writes: 16-bit weights without quantisation and the largest batch
that fits. Its features are computed before and held in memory, so it never waits for data.
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorajob.job.jobdir import JobDir
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.whisper.tokens import Labels

WARM_UP_STEPS = 3
MOST_STEPS = 16
FEATURES = 64  # different clips in the baseline's features
BATCHES = (64, 48, 32, 24, 16, 8, 4, 2, 1)


class Clock:
    """Measures the steps after the first few, until `seconds` have passed."""

    def __init__(self, seconds: float) -> None:
        self.limit = seconds
        self.started = time.monotonic()
        self.first: float | None = None
        self.steps = 0
        self.measured = 0
        self.since = 0.0
        self.seconds = 0.0

    def step(self) -> bool:
        """Count a finished step. Returns True when enough was measured."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        self.steps += 1
        self.first = self.first or now - self.started
        if self.steps == WARM_UP_STEPS:
            self.since = now
        if self.steps > WARM_UP_STEPS:
            self.measured, self.seconds = self.steps - WARM_UP_STEPS, now - self.since
        enough = self.seconds > self.limit or now - self.started > 4 * self.limit
        return self.measured >= 2 and (enough or self.measured >= MOST_STEPS)


def recipe(job: JobDir, shape: str, seconds: float) -> dict[str, Any]:
    """Run the recipe's own training, and stop it when enough steps were timed."""
    import seed_recipe
    from datasets import Dataset
    from transformers import TrainerCallback, WhisperFeatureExtractor

    spec = JobSpec.load(job.spec_path)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    labels = Labels(Path(spec.base_model), "hi")
    extractor = WhisperFeatureExtractor.from_pretrained(spec.base_model)
    clips = min(len(store), seed_recipe.BATCH * (MOST_STEPS + WARM_UP_STEPS + 1))
    made: dict[int, Any] = {}

    def rows() -> Any:
        for clip in range(clips):
            key = clip % FEATURES
            if key not in made:
                made[key] = extractor(store.audio(key), sampling_rate=16_000).input_features[0]
            ids = [*labels.prompt, *labels.encode(store.texts[key]), labels.end]
            yield {"input_features": made[key], "labels": ids}

    work = job.root / "recipe"
    work.mkdir(exist_ok=True)
    dataset = Dataset.from_generator(rows, cache_dir=str(work / "cache"))
    used = [clip % FEATURES for clip in range(clips)]

    class InMemory(seed_recipe.Recipe):
        def dataset(self, split: str) -> Dataset:
            return dataset

    clock = Clock(seconds)

    class Stop(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_training_stop = clock.step()

    values = {
        "base": spec.base_model,
        "language_name": "hi",
        "epochs": 1,
        "seed": 0,
    }
    clock.started = time.monotonic()
    seed_recipe.train(InMemory(work, values), callbacks=[Stop()])
    return report(clock, store, used, seed_recipe.BATCH)


def fair(job: JobDir, shape: str, seconds: float) -> dict[str, Any]:
    """Run the baseline: 16-bit weights, the largest batch, no time spent on data."""
    from peft import LoraConfig, get_peft_model
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    spec = JobSpec.load(job.spec_path)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    labels = Labels(Path(spec.base_model), "hi")
    extractor = WhisperFeatureExtractor.from_pretrained(spec.base_model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = min(len(store), FEATURES)
    features = torch.from_numpy(
        np.stack(
            [
                extractor(store.audio(clip), sampling_rate=16_000).input_features[0]
                for clip in range(count)
            ]
        )
    ).to(torch.bfloat16)
    texts = [
        [*labels.prompt[1:], *labels.encode(store.texts[it]), labels.end] for it in range(count)
    ]
    started = time.monotonic()
    model: Any = WhisperForConditionalGeneration.from_pretrained(
        spec.base_model, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).to(device)
    model.config.use_cache = False
    model.model.encoder.conv1.register_forward_hook(lambda m, i, out: out.requires_grad_(True))
    config = LoraConfig(r=32, lora_alpha=64, target_modules=["q_proj", "v_proj"], lora_dropout=0.05)
    model = get_peft_model(model, config).train()
    trained = [it for it in model.parameters() if it.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=device.type == "cuda")

    def step(clips: list[int]) -> None:
        longest = max(len(texts[it]) for it in clips)
        rows = [texts[it] + [-100] * (longest - len(texts[it])) for it in clips]
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(
                input_features=features[clips].to(device), labels=torch.tensor(rows, device=device)
            ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    order = itertools.cycle(range(count))
    for batch in BATCHES:
        if batch > BATCHES[-1] and device.type == "cpu" and batch > 4:
            continue
        clock = Clock(seconds)
        clock.started = started
        used: list[int] = []
        try:
            while True:
                chosen = [next(order) for _ in range(batch)]
                step(chosen)
                used += chosen
                if clock.step():
                    return report(clock, store, used, batch)
        except torch.OutOfMemoryError:
            optimizer.zero_grad()
            torch.cuda.empty_cache()
    raise SystemExit("not even one window fits")


def report(clock: Clock, store: ClipStore, used: list[int], batch: int) -> dict[str, Any]:
    """The figures for `run.py`. `used` are all clips in order, including those of the warm-up."""
    timed = used[WARM_UP_STEPS * batch :][: clock.measured * batch]
    return {
        "batch_clips": batch,
        "steps": clock.measured,
        "seconds": clock.seconds,
        "clips": len(timed),
        "audio_seconds": float(sum(store.seconds[it] for it in timed)),
        "clip_sizes": [[float(store.seconds[it]), int(store.tokens[it])] for it in timed],
        "first_step_seconds": clock.first,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def main() -> None:
    kind, folder, shape, seconds = sys.argv[1:]
    given = {"recipe": recipe, "fair": fair}[kind](JobDir(Path(folder)), shape, float(seconds))
    print(json.dumps(given))


if __name__ == "__main__":
    main()
