"""Makes Whispers of published shapes with random weights, and clips of noise; counts operations."""

import json
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipWriter, encode_audio
from lorajob.whisper.tokens import Labels

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
CONFIG_FILES = ("config.json", "generation_config.json")
# Clips as in Common Voice: log-normal with a median of 4.2 s, mean 4.5 s; 12 tokens a second, from
# 9 (Hindi) to 19 (Malayalam) with Whisper's tokenizer.
MEDIAN_SECONDS, SPREAD, SHORTEST, LONGEST = 4.2, 0.38, 1.2, 15.0
TOKENS_A_SECOND, TOKENS_SPREAD = 12.0, 3.0
# Different recordings. One for each clip would take longer to encode than the training.
NOISES = 256
WORDS = [
    "the",
    "and",
    "that",
    "have",
    "for",
    "not",
    "with",
    "you",
    "this",
    "but",
    "his",
    "from",
    "they",
    "say",
    "her",
    "she",
    "will",
    "one",
    "all",
]


@dataclass(frozen=True)
class Shape:
    """Width, layers of encoder and decoder, bins of the log-mel, tokens; heads have 64 entries."""

    width: int
    encoder_layers: int
    decoder_layers: int
    mel_bins: int = 80
    vocabulary: int = 51_865


SHAPES = {
    "smallest": Shape(64, 2, 2),  # to try the benchmark itself
    "tiny": Shape(384, 4, 4),  # 39 M parameters
    "base": Shape(512, 6, 6),  # 74 M
    "small": Shape(768, 12, 12),  # 244 M
    "turbo": Shape(1280, 32, 4, 128, 51_866),  # 809 M
    "large-v3": Shape(1280, 32, 32, 128, 51_866),  # 1,550 M
}

REAL = (
    "whisper-base"  # the real weights of base's shape, if the packages of the extra demo are here
)


def make_model(shape: Shape, folder: Path, tokenizer: Path) -> None:
    """Make a transformers folder with random weights in 16 bit, as OpenAI publishes its models."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig.from_pretrained(
        tokenizer,
        d_model=shape.width,
        encoder_layers=shape.encoder_layers,
        decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.width // 64,
        decoder_attention_heads=shape.width // 64,
        encoder_ffn_dim=4 * shape.width,
        decoder_ffn_dim=4 * shape.width,
        num_mel_bins=shape.mel_bins,
        vocab_size=shape.vocabulary,
    )
    torch.manual_seed(1)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig.from_pretrained(tokenizer)
    model.generation_config.alignment_heads = [[0, 0]]
    model.to(torch.float16).save_pretrained(folder)
    for name in TOKENIZER_FILES[:2]:
        shutil.copyfile(tokenizer / name, folder / name)
    processor = json.loads((tokenizer / "preprocessor_config.json").read_text("utf-8"))
    write_json(folder / "preprocessor_config.json", processor | {"feature_size": shape.mel_bins})


def make_job(
    root: Path, base: Path, clips: int, sets: Sequence[str], test_clips: int = 64
) -> JobDir:
    """Make a preprocessed job with clips of noise, as long as real clips."""
    job = JobDir(root)
    spec = build_spec({"language": "hi", "corpus": "unused", "base_model": str(base)}, sets=sets)
    write_json(job.spec_path, spec.model_dump(mode="json"))
    out = job.new_attempt("preprocess", 1)
    labels = Labels(base, "hi")
    rng = random.Random(0)
    noise = np.random.default_rng(0)
    recordings = []
    for _ in range(min(NOISES, clips + test_clips)):
        seconds = rng.lognormvariate(np.log(MEDIAN_SECONDS), SPREAD)
        samples = round(16_000 * min(LONGEST, max(SHORTEST, seconds)))
        time = np.arange(samples) / 16_000
        loudness = 0.1 * (1 + np.sin(2 * np.pi * 3 * time))  # syllables
        audio = (loudness * noise.standard_normal(samples)).clip(-1, 1).astype(np.float32)
        recordings.append((encode_audio(audio, "flac"), samples / 16_000))
    for split, count in (("train", clips), ("test", test_clips)):
        with ClipWriter(out / split, "flac") as writer:
            for number in range(count):
                audio, seconds = recordings[rng.randrange(len(recordings))]
                tokens = max(3, round(seconds * rng.gauss(TOKENS_A_SECOND, TOKENS_SPREAD)))
                text = " ".join(rng.choices(WORDS, k=min(400, tokens)))
                name, speaker = f"{split}-{number}.wav", f"speaker-{number % 50}"
                writer.add_encoded(name, audio, seconds, text, speaker, labels.count(text))
    job.commit("preprocess", out, StageResult())
    return job


def training_flops(shape: Shape, seconds: float, tokens: int) -> float:
    """Floating-point operations to train LoRA on one clip.

    They are the forward pass and the backward pass to the activations; frozen weights need no
    gradient. Padding, LoRA's own products and recomputation are not counted. So a product with a
    weight counts twice (forward and backward), and attention's products count three times.
    """
    width, heard = shape.width, 50.0 * seconds
    encoder_layer = 12 * width**2  # attention's four matrices, and two of four times the width
    decoder_layer = 14 * width**2  # of its cross-attention only queries and output run here
    cross = 2 * width**2  # keys and values, for each of the encoder's positions
    convolutions = 3 * width * (2 * shape.mel_bins + width)  # forward only
    weights = heard * (shape.encoder_layers * encoder_layer + shape.decoder_layers * cross)
    weights += tokens * (shape.decoder_layers * decoder_layer + width * shape.vocabulary)
    pairs = shape.encoder_layers * heard**2 + shape.decoder_layers * tokens * (heard + tokens / 2)
    return 2 * heard * convolutions + 2 * 2 * weights + 3 * 4 * width * pairs


def main() -> None:
    """`python bench/gpu/models.py SHAPE FOLDER TOKENIZER`: make a model in a process of its own."""
    name, folder, tokenizer = sys.argv[1:]
    make_model(SHAPES[name], Path(folder), Path(tokenizer))


def needed_flops(shape: Shape, seconds: Any, tokens: Any) -> float:
    """The sum of `training_flops` over clips."""
    return sum(
        training_flops(shape, float(a), int(b) + 3) for a, b in zip(seconds, tokens, strict=True)
    )


if __name__ == "__main__":
    main()
