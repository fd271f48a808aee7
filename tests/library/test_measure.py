"""How the size of a batch follows from measured times."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lorajob.decoding.config import DecodeConfig
from lorajob.serving import measure


def chosen(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], device: str = "cpu"
) -> tuple[int, list[int]]:
    """The size, and the sizes that were tried. `seconds` are those of a window."""
    tried: list[int] = []

    def timed(decoder: Any, mel: Any, windows: int, steps: float) -> float:
        tried.append(windows)
        assert len(mel) == windows
        if windows not in seconds:
            raise RuntimeError("out of memory")
        return seconds[windows]

    monkeypatch.setattr(measure, "_seconds_a_window", timed)
    decoder: Any = SimpleNamespace(
        engine=SimpleNamespace(device=device),
        config=DecodeConfig(language="hi"),
        mel=lambda clips: np.zeros((1, 80, 400), np.float32),
    )
    return measure.best_batch(decoder), tried[1:]


def test_one_slow_sample_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {1: 0.8, 2: 0.9, 4: 0.4, 8: 0.36, 16: 0.35}
    assert chosen(monkeypatch, times) == (8, [1, 2, 4, 8, 16])


def test_two_sizes_that_do_not_pay_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {1: 0.1, 2: 0.1, 4: 0.11, 8: 0.01}) == (1, [1, 2, 4])


def test_memory_bounds_the_size_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {2**power: 0.5**power for power in range(6)}
    assert chosen(monkeypatch, times, "cuda") == (32, [1, 2, 4, 8, 16, 32, 64])
