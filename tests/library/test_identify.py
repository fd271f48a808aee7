"""Language identification, as bench/quality.py measures it."""

from pathlib import Path

import numpy as np
from bench.identify import heard_languages

from lorajob.whisper import ct2


def test_each_clip_gets_the_language_that_it_gets_alone(tiny_whisper: Path, tmp_path: Path) -> None:
    model = ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    random = np.random.default_rng(0)
    sounds = [random.normal(0, 0.1, 16_000).astype(np.float32) for _ in range(3)]
    clips = [lambda sound=sound: sound for sound in sounds]
    heard = heard_languages(model, clips, batch_windows=2)
    assert all(code.isalpha() for code in heard)
    assert heard == [heard_languages(model, [clip])[0] for clip in clips]
    assert heard_languages(model, []) == []
