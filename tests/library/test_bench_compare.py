"""The batches of the fair baseline, as bench/compare.py uses it."""

import numpy as np
from bench.even_steps import EvenSteps


def test_each_epoch_of_the_fair_baseline_has_all_clips_once_in_the_steps_of_lorajob() -> None:
    batches = EvenSteps(160, 147, np.random.default_rng(0))
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == len(second) == 147
    for epoch in (first, second):
        assert sorted(clip for step in epoch for clip in step) == list(range(160))
        assert {len(step) for step in epoch} == {1, 2}
    assert first != second
    again = EvenSteps(160, 147, np.random.default_rng(0))
    assert [list(again), list(again)] == [first, second]
