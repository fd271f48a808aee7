"""Encodes and decodes on each GPU with a tiny Whisper: the process of the worker's decoder check.

The model has random weights, and is made in a temporary folder.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import whisper_spec
from numpy.typing import NDArray

from lorajob.whisper.cuda_libraries import load_cuda_libraries

WIDTH, HEADS, MEL_BINS, POSITIONS = 64, 1, 80, 50
TOKENS = 16


def compute(folder: Path, device: str, gpu: int = 0) -> None:
    """Encode a window of silence and decode three tokens. Raises RuntimeError."""
    model = ctranslate2.models.Whisper(str(folder), device=device, device_index=gpu)
    mel = np.zeros((1, MEL_BINS, 2 * POSITIONS), np.float32)
    encoded = model.encode(ctranslate2.StorageView.from_array(mel), to_cpu=True)
    if not np.isfinite(np.asarray(encoded)).all():
        raise RuntimeError("the encoder's output is not finite")
    model.generate(encoded, [[0]], beam_size=1, max_length=6)


def write_tiny_whisper(folder: Path) -> None:
    """Write a CTranslate2 Whisper of one layer with random weights, 0.4 MB, to `folder`."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> NDArray[np.float32]:
        return (0.02 * rng.standard_normal(shape)).astype(np.float32)

    def fill(linear: Any, out: int, into: int) -> None:
        linear.weight, linear.bias = weights(out, into), weights(out)

    def norm(layer: Any) -> None:
        layer.gamma, layer.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)

    def attention(spec: Any, products: Sequence[int]) -> None:
        norm(spec.layer_norm)
        for linear, count in zip(spec.linear, products, strict=True):
            fill(linear, count * WIDTH, WIDTH)

    spec = whisper_spec.WhisperSpec(1, HEADS, 1, HEADS)
    encoder, decoder = spec.encoder, spec.decoder
    for conv, bins in ((encoder.conv1, MEL_BINS), (encoder.conv2, WIDTH)):
        conv.weight, conv.bias = weights(WIDTH, bins, 3), weights(WIDTH)
    encoder.position_encodings.encodings = weights(POSITIONS, WIDTH)
    decoder.position_encodings.encodings = weights(TOKENS, WIDTH)
    decoder.embeddings.weight = weights(TOKENS, WIDTH)
    decoder.projection.weight = decoder.embeddings.weight
    norm(encoder.layer_norm)
    norm(decoder.layer_norm)
    for layer in (*encoder.layer, *decoder.layer):
        attention(layer.self_attention, (3, 1))
        norm(layer.ffn.layer_norm)
        fill(layer.ffn.linear_0, 4 * WIDTH, WIDTH)
        fill(layer.ffn.linear_1, WIDTH, 4 * WIDTH)
    attention(decoder.layer[0].attention, (1, 2, 1))
    spec.register_vocabulary(["<|endoftext|>", *map(str, range(1, TOKENS))])
    spec.validate()
    spec.save(str(folder))


def main() -> None:
    """Print a line of JSON for each visible GPU."""
    ctranslate2.set_log_level(logging.ERROR)
    missing = load_cuda_libraries()
    with tempfile.TemporaryDirectory(prefix="lorajob-decoder-check-") as place:
        folder = Path(place)
        write_tiny_whisper(folder)
        for gpu in range(ctranslate2.get_cuda_device_count()):
            error = ""
            try:
                compute(folder, "cuda", gpu)
            except (RuntimeError, ValueError) as failed:
                error = " ".join(str(failed).split())[:300]
            print(json.dumps({"gpu": gpu, "error": error, "missing": missing}), flush=True)


if __name__ == "__main__":
    main()
