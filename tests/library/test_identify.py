"""Language identification as a figure."""

from pathlib import Path

import numpy as np
import pytest

from lorajob.decoding.identify import heard_languages, language_share
from lorajob.whisper import ct2


def clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, 16_000).astype(np.float32)


def test_the_share_counts_clips_whose_own_language_is_heard(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    model = ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    clips = [lambda seed=seed: clip(seed) for seed in range(3)]
    heard = heard_languages(model, clips, batch_windows=2)
    assert len(heard) == 3
    assert all(code.isalpha() for code in heard)
    assert language_share(model, clips, heard) == 1.0
    wrong = ["hi" if heard[0] != "hi" else "ta", *heard[1:]]
    assert language_share(model, clips, wrong) == pytest.approx(2 / 3)


def test_no_clips_have_no_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs as many, over 0"):
        language_share(tmp_path, [], [])
