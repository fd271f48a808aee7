import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from lorajob.whisper.features import LogMel, pad_windows


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
