"""How much a tuned model forgets other languages by its encoder, and how much by its decoder.

    python bench/forgetting.py JOB_DIR MORE_DIR --shares 1/1 0.5/1 0/1 --clips 24

JOB_DIR is a job that has finished its training, MORE_DIR one that has read more clips of the same
corpus: the others of these are decoded. In each pair of shares, the update of the encoder is
multiplied by the first and that of the decoder by the second. Both models decode greedily, without
fallback. The sentences in other languages are those of the gate. Losses are in nats a token.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorajob.cores import cpu_share

os.environ.update(cpu_share(os.environ))  # before a library starts threads

import torch

from lorajob.decoding.torch_engine import TorchEngine
from lorajob.decoding.windows import extractor, features
from lorajob.demo.foreign import FOREIGN_SENTENCES, foreign_sounds
from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.audio import Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score
from lorajob.whisper.base_model import local_model
from lorajob.whisper.model import encode_features, load_whisper, merge_adapter
from lorajob.whisper.tokens import Labels

BATCH = 8


class Measured:
    """Texts, transcripts and loss of clips in one or more languages."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.said: list[str] = []
        self.heard: list[str] = []
        self.loss, self.tokens = 0.0, 0

    @torch.no_grad()
    def add(
        self, labels: Labels, sounds: Sequence[Samples], texts: Sequence[str], cut: bool, most: int
    ) -> None:
        model, settings = self.model, self.model.generation_config
        never, first = settings.suppress_tokens or (), settings.begin_suppress_tokens or ()
        mel = features(extractor(int(model.config.num_mel_bins)), sounds, cut)
        found = TorchEngine(model, labels, never, first).generate(mel, most)
        self.heard += [labels.decode(it.sequences_ids[0]) for it in found]
        self.said += texts
        encoded = encode_features(model.model.encoder, torch.as_tensor(mel).to(model.dtype))
        for row, text in zip(encoded, texts, strict=True):
            ids = [*labels.prompt, *labels.encode(text if cut else f" {text}"), labels.end]
            hidden = model.model.decoder(
                input_ids=torch.tensor([ids[:-1]]), encoder_hidden_states=row[None]
            ).last_hidden_state
            chances = model.proj_out(hidden[0, 3:]).float().log_softmax(-1)
            self.loss -= float(chances.gather(1, torch.tensor(ids[4:])[:, None]).sum())
            self.tokens += len(ids) - 4

    def row(self, language: str) -> dict[str, float]:
        found = score(self.said, self.heard, language)
        loss = self.loss / self.tokens
        return {"wer": round(found.wer, 1), "cer": round(found.cer, 1), "loss": round(loss, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("more_dir", type=Path)
    parser.add_argument("--shares", nargs="+", default=["1/1", "0.5/1", "0/1"])
    parser.add_argument("--clips", type=int, default=24)
    args = parser.parse_args()
    job = JobDir(args.job_dir)
    spec = JobSpec.load(job.spec_path)
    base = local_model(spec.base_model)
    tuned = merge_adapter(base, job.stage_dir("train") / "adapter")
    after = {name: it.detach().clone() for name, it in tuned.named_parameters()}
    before = {name: it.detach() for name, it in load_whisper(base).named_parameters()}
    model: Any = tuned.eval().to(torch.bfloat16)
    trained = set(ClipStore(job.stage_dir("preprocess") / "train").ids)
    store = ClipStore(JobDir(args.more_dir).stage_dir("preprocess") / "train")
    others = [place for place in range(len(store)) if store.ids[place] not in trained]
    random.Random(3).shuffle(others)
    places = sorted(others[: args.clips], key=lambda place: float(store.seconds[place]))
    own = Labels(base, find_language(spec.language).token)
    for pair in args.shares:
        started = time.process_time()
        encoder, decoder = map(float, pair.split("/"))
        for name, weights in model.named_parameters():
            share = encoder if name.startswith("model.encoder.") else decoder
            weights.data.copy_(before[name].lerp(after[name], share))
        clips, foreign = Measured(model), Measured(model)
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            texts = [store.texts[it] for it in part]
            clips.add(own, [store.audio(it) for it in part], texts, True, 90)
        for code, sounds in foreign_sounds().items():
            if code != own.language_token:
                texts = [*FOREIGN_SENTENCES[code]]
                foreign.add(Labels(base, code), sounds, texts, False, 48)
        row = {"shares": pair, "clips": clips.row(spec.language), "foreign": foreign.row("")}
        seconds = round(time.process_time() - started)
        print(json.dumps(row | {"cpu_seconds": seconds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
