import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from lorajob.features import LogMel, SpecAugment, pad_windows


@pytest.mark.parametrize("mel_bins", [80, 128])
def test_log_mel_is_that_of_transformers(mel_bins: int) -> None:
    rng = np.random.default_rng(0)
    clips = [
        (rng.standard_normal(samples) * 0.1).astype(np.float32) for samples in (16_000, 480_000)
    ]
    ours = LogMel(mel_bins)(pad_windows(clips)).numpy()
    theirs = WhisperFeatureExtractor(feature_size=mel_bins)(
        clips, sampling_rate=16_000, return_tensors="np"
    ).input_features
    assert ours.shape == (2, mel_bins, 3000)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_audio_past_the_window_is_cut_and_short_audio_is_silence_behind() -> None:
    batch = pad_windows([np.ones(500_000, np.float32), np.ones(10, np.float32)])
    assert batch.shape == (2, 480_000)
    assert batch[1].sum() == 10


@pytest.mark.parametrize("frames", [200, 3000])
def test_bands_and_stretches_are_hidden_others_in_each_window(frames: int) -> None:
    torch.manual_seed(0)
    heard = torch.ones(400, 80, frames)
    masked = SpecAugment()(heard) == 0
    bands, stretches = masked.all(2).sum(1), masked.all(1).sum(1)
    assert torch.equal(masked, masked.all(2)[:, :, None] | masked.all(1)[:, None])
    assert int(bands.max()) <= 2 * 0.2 * 80
    assert 10 < float(bands.float().mean()) < 16  # two of 8 bins on average, which may overlap
    most = min(100, int(0.1 * frames))
    assert int(stretches.max()) <= 2 * most
    assert 0.8 * most < float(stretches.float().mean()) < 1.1 * most
    assert len({tuple(row.tolist()) for row in masked.all(2)}) > 350
    assert masked.all(2)[:, -1].any() and masked.all(2)[:, 0].any()  # to the very ends


def test_nothing_is_hidden_where_nothing_is_learned() -> None:
    heard = torch.ones(2, 80, 100)
    assert torch.equal(SpecAugment().eval()(heard), heard)
