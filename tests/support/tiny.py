"""A random Whisper small enough for any test, and clips of noise to train it on."""

import json
import shutil
from pathlib import Path

import numpy as np

from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipWriter
from lorajob.whisper.base_model import local_model
from lorajob.whisper.tokens import Labels

SENTENCES = ("नमस्ते दुनिया", "हमने किया", "पानी ठंडा है", "यह किताब मेरी है")


def make_tiny_whisper(
    base: Path, folder: Path, mel_bins: int = 80, few_words: bool = False
) -> Path:
    """A transformers folder with the tokenizer and generation config of `base`.

    With `few_words` its transcripts end after a few tokens. Otherwise they go on to the limit, and
    each decoder with fallback decodes them again and again.
    """
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(1)
    config = WhisperConfig.from_pretrained(
        base,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_mel_bins=mel_bins,
    )
    model = WhisperForConditionalGeneration(config)
    if few_words:
        end = model.config.eos_token_id
        direction = torch.nn.functional.normalize(torch.randn(64), dim=0)
        with torch.no_grad():
            # The end gets about as much probability as all the other tokens together.
            model.model.decoder.layer_norm.bias.copy_(10 * direction)
            model.model.decoder.embed_tokens.weight[end] = 1.15 * direction
    model.generation_config = GenerationConfig.from_pretrained(base)
    model.generation_config.alignment_heads = [[1, 0], [1, 1]]
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, folder / name)
    processor = json.loads((base / "preprocessor_config.json").read_text())
    write_json(folder / "preprocessor_config.json", processor | {"feature_size": mel_bins})
    return folder


def make_job(root: Path, base: Path, *sets: str, clips: int = 12, language: str = "hi") -> JobDir:
    """A job whose preprocess stage is finished: clips of one to three seconds, in tones."""
    job = JobDir(root)
    # The gate's sounds take an untrained model seconds; tests of the gate turn it on.
    values = {"language": language, "corpus": "unused", "base_model": str(base)}
    spec = build_spec(values, sets=("gate.check=false", *sets))
    write_json(job.spec_path, spec.model_dump(mode="json"))
    out = job.new_attempt("preprocess", 1)
    labels = Labels(local_model(str(base)), language)
    rng = np.random.default_rng(0)
    for split, count in (("train", clips), ("test", 4)):
        with ClipWriter(out / split, "flac") as writer:
            for number in range(count):
                text = SENTENCES[number % len(SENTENCES)]
                time = np.arange(int(16_000 * rng.uniform(1, 3))) / 16_000
                tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * (number % len(SENTENCES))) * time)
                samples = (tone + 0.01 * rng.standard_normal(len(time))).astype(np.float32)
                name, speaker = f"{split}-{number}.wav", f"speaker-{number % 3}"
                writer.add(name, samples, text, speaker, labels.count(text))
    job.commit("preprocess", out, StageResult())
    return job
