"""Held-out loss of the trainings that bench/compare.py has kept in its --work folder.

    python bench/heldout.py WORK --lang ml

Error rates say little about models that have just begun to learn a language. The loss does. It is
that of the test clips, each padded to 30 s, the text given: nats a token, without the prompt. The
difference to `ours` is paired, with a 95 % interval over clips.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.whisper.base_model import local_model
from lorajob.whisper.features import LogMel, pad_windows
from lorajob.whisper.model import encode_features, merge_adapter
from lorajob.whisper.tokens import Labels

PROMPT = 4  # tokens before the text
SAMPLES = 2000  # of the bootstrap


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="the folder given to bench/compare.py --work")
    parser.add_argument("--lang", required=True, help="code of the language")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default: 0)")
    parser.add_argument("--clips", type=int, default=32, help="test clips (default: 32)")
    args = parser.parse_args()
    job = JobDir(args.work / f"ours-{args.seed}")
    base = local_model(JobSpec.load(job.spec_path).base_model)
    labels = Labels(base, find_language(args.lang).token)
    store = ClipStore(job.stage_dir("preprocess") / "test")
    ours: NDArray[np.float64] | None = None
    print("| | loss | difference to `ours` |\n| --- | ---: | ---: |")
    paths = args.work.glob(f"*-{args.seed}-trained.json")
    for path in sorted(paths, key=lambda it: it.name[:4] != "ours"):
        started = time.monotonic()
        adapter = args.work / json.loads(path.read_text("utf-8"))["adapter"]
        rows = losses(merge_adapter(base, adapter), labels, store, args.clips)
        ours = rows if ours is None else ours
        name = path.name.removesuffix(f"-{args.seed}-trained.json")
        told = "" if rows is ours else "{:+.3f}: {:+.3f} to {:+.3f}".format(*compared(ours, rows))
        total, tokens = rows.sum(axis=0)
        print(f"| {name} | {total / tokens:.3f} | {told} |", flush=True)
        print(f"  {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


@torch.no_grad()
def losses(model: Any, labels: Labels, store: ClipStore, clips: int) -> NDArray[np.float64]:
    """float64 [clips, 2]: the summed loss in nats, and the tokens, of each of the first clips."""
    log_mel = LogMel(model.config.num_mel_bins)
    rows = []
    for place in range(min(clips, len(store))):
        ids = [*labels.prompt, *labels.encode(store.texts[place]), labels.end]
        mel = torch.as_tensor(log_mel(pad_windows([store.audio(place)])))
        encoded = encode_features(model.model.encoder, mel)
        hidden = model.model.decoder(
            input_ids=torch.tensor([ids[:-1]]), encoder_hidden_states=encoded
        ).last_hidden_state
        chances = model.proj_out(hidden[0, PROMPT - 1 :]).log_softmax(-1)
        said = chances.gather(1, torch.tensor(ids[PROMPT:])[:, None])
        rows.append((-float(said.sum()), len(said)))
    return np.array(rows)


def compared(ours: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float, float]:
    """How much higher the loss of `other` is, in nats a token, and its 95 % interval."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([other[:, 0] - ours[:, 0], ours[:, 1]])
    drawn = rows[rng.integers(len(rows), size=(SAMPLES, len(rows)))].sum(axis=1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    more, tokens = rows.sum(axis=0)
    return float(more / tokens), float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
