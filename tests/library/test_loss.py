"""The loss against PyTorch's and transformers' own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lorajob.training import loss
from lorajob.training.loss import CHUNK_TOKENS, cross_entropy
from lorajob.training.products import FrozenLinear
from lorajob.whisper.features import pad_windows
from lorajob.whisper.model import encode_features, load_whisper
from lorajob.whisper.window import FRAME_SAMPLES, WINDOW_SAMPLES

CHUNK = CHUNK_TOKENS["cpu"]


@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize("padded", [False, True])
def test_cross_entropy_in_chunks_is_the_whole_one(
    monkeypatch: pytest.MonkeyPatch, tokens: int, padded: bool
) -> None:
    monkeypatch.setattr(loss, "pads_vocabulary", lambda hidden: padded)
    torch.manual_seed(0)
    head = nn.Linear(16, 300, bias=False)
    hidden = torch.randn(tokens, 16, requires_grad=True)
    labels = torch.randint(300, (tokens,))
    whole = nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    (expected,) = torch.autograd.grad(whole / 7, hidden)
    head.requires_grad_(False)  # only a frozen head goes chunk by chunk
    chunked = cross_entropy(hidden, head, labels)
    (gradient,) = torch.autograd.grad(chunked / 7, hidden)
    assert "ChunkedCrossEntropy" in type(chunked.grad_fn).__name__
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(gradient, expected)


def test_a_padded_head_has_a_round_number_of_outputs() -> None:
    head = FrozenLinear(nn.Linear(16, 300, bias=False)).padded
    given = torch.randn(2, 16)
    assert head.forward(given).shape == (2, 320)
    assert head.forward(given)[:, 300:].eq(-torch.inf).all()
    assert FrozenLinear(nn.Linear(16, 128)).padded.weight.shape == (128, 16)


def test_a_head_that_learns_gets_its_gradient() -> None:
    head = nn.Linear(16, 300, bias=False)
    cross_entropy(torch.randn(5, 16), head, torch.randint(300, (5,))).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.any()


def test_cross_entropy_under_autocast_is_near_the_exact_one() -> None:
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).requires_grad_(False)
    hidden = torch.randn(40, 64, requires_grad=True)
    labels = torch.randint(500, (40,))
    exact = cross_entropy(hidden, head, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = cross_entropy(hidden, head, labels)
    assert rounded.dtype == torch.float32
    assert float(rounded.detach()) == pytest.approx(float(exact.detach()), rel=1e-2)
    (gradient,) = torch.autograd.grad(rounded, hidden)
    (expected,) = torch.autograd.grad(exact, hidden)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, expected, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_the_encoder_takes_fewer_frames_and_is_transformers_at_full_length(
    tiny_whisper: Path,
) -> None:
    torch.manual_seed(0)
    model = load_whisper(tiny_whisper).eval()
    encoder = model.model.encoder
    features = torch.randn(2, 80, 3000)
    torch.testing.assert_close(
        encode_features(encoder, features), encoder(features).last_hidden_state
    )
    short = encode_features(encoder, features[..., :400])
    assert short.shape == (2, 200, 64)
    encoder.config.max_source_positions = 200  # transformers', told to take as few
    encoder.embed_positions = nn.Embedding.from_pretrained(encoder.embed_positions.weight[:200])
    torch.testing.assert_close(short, encoder(features[..., :400]).last_hidden_state)


def test_cut_windows_end_behind_the_longest_clip() -> None:
    clips = [torch.ones(16_000).numpy(), torch.ones(20_000).numpy()]
    batch = pad_windows(clips, cut=True)
    assert batch.shape[1] % FRAME_SAMPLES == 0
    assert 20_000 + 8_000 <= batch.shape[1] < 20_000 + 8_000 + FRAME_SAMPLES
    assert batch.sum(dim=1).tolist() == [16_000, 20_000]
    assert pad_windows([torch.ones(WINDOW_SAMPLES - 10).numpy()], cut=True).shape[1] == 480_000
