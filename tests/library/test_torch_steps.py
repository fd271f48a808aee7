"""The decoder that takes a token a step, against transformers' own."""

import logging
from pathlib import Path

import pytest
import torch

from lorajob.decoding.torch_steps import DecoderSteps
from lorajob.whisper.model import load_whisper

ROWS, LENGTH = 3, 7


def unable() -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


@torch.inference_mode()
@pytest.mark.parametrize("records", [False, True])
def test_steps_give_the_logits_of_the_whole_text(
    tiny_whisper: Path,
    records: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also on a GPU that cannot record them."""
    streams: list[object] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", unable)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "its own")
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    torch.manual_seed(0)
    model = load_whisper(tiny_whisper).eval()
    heard = torch.randn(ROWS, 50, model.config.d_model)
    tokens = torch.randint(model.config.vocab_size, (ROWS, LENGTH))
    tokens[:, :3] = tokens[0, :3]
    whole = model(encoder_outputs=(heard,), decoder_input_ids=tokens).logits
    steps = DecoderSteps(model, heard, LENGTH + 2, records)
    with caplog.at_level(logging.WARNING):
        first, last = steps.prompt(tokens[0, :3].tolist())
        taken = [steps(tokens[:, place]).clone() for place in range(3, LENGTH)]
    assert ("decoding is not recorded" in caplog.text) == records == (streams == ["its own"])
    assert not steps.records
    torch.testing.assert_close(first, whole[:, 0])
    torch.testing.assert_close(last, whole[:, 2])
    torch.testing.assert_close(torch.stack(taken, 1), whole[:, 3:])
