"""PyTorch's decoder: its type, and batches that fit the memory."""

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lorajob.decoding import torch_engine
from lorajob.whisper import ct2
from lorajob.whisper.model import DTYPES, load_whisper, pick_precision
from lorajob.whisper.tokens import Labels


def test_out_of_memory_makes_all_later_batches_of_pytorch_smaller(
    tiny_whisper: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = torch_engine.TorchEngine(load_whisper(tiny_whisper), Labels(tiny_whisper, "hi"))
    mel = np.random.default_rng(0).standard_normal((5, engine.n_mels, 40)).astype(np.float32)
    expected = [it.sequences_ids for it in engine.generate(mel, 4)]
    generate = torch_engine.TorchEngine._generate
    sizes: list[tuple[int, int]] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def small(self: Any, features: Any, limit: int, temperature: float, copies: int) -> Any:
        assert all(it() is None for it in held)  # else the GPU has no more memory than before
        sizes.append((len(features), features.shape[-1]))
        taken = torch.zeros(len(features))
        held.append(weakref.ref(taken))
        if len(features) * features.shape[-1] * copies > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, features, limit, temperature, copies)

    monkeypatch.setattr(torch_engine.TorchEngine, "_generate", small)
    assert [it.sequences_ids for it in engine.generate(mel, 4)] == expected
    assert sizes == [(5, 40), (2, 40), (2, 40), (1, 40)]
    assert "decoding 2 windows at a time, not 5" in caplog.text
    # Shorter windows need less memory each, sampled ones as much as all that is sampled of them.
    sizes.clear()
    engine.generate(mel[..., :20], 4)
    engine.generate(mel[..., :20], 4, 0.8, best_of=4)
    assert sizes == [(4, 20), (1, 20)] + 5 * [(1, 20)]
    with pytest.raises(torch.OutOfMemoryError):
        engine.generate(mel[..., :20], 4, 0.8, best_of=6)


def test_pytorch_decodes_in_fp16_where_bf16_is_only_emulated(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    to = torch_engine.WhisperForConditionalGeneration.to
    given: list[torch.device] = []

    def stay(self: Any, device: torch.device, dtype: torch.dtype) -> Any:
        given.append(device)
        return to(self, dtype=dtype)

    monkeypatch.setattr(torch_engine.WhisperForConditionalGeneration, "to", stay)
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        card = SimpleNamespace(major=capability[0], minor=capability[1])  # T4, A100
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        engine = torch_engine.load_engine(model, Labels(model, "hi"), "cuda")
        assert engine.model.dtype == dtype
        assert DTYPES[pick_precision("auto", torch.device("cuda"))] == dtype
    assert given == 2 * [torch.device("cuda")]
