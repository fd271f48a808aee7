import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lorajob.spec import TrainConfig
from lorajob.training.packing import (
    PAUSE_SECONDS,
    ClipSizes,
    Window,
    clips_a_step,
    digest_plan,
    group_batches,
    group_steps,
    heard_seconds,
    plan_epoch,
    plan_run,
    plan_windows,
)


def sizes(clips: int, seconds: float = 4.0, tokens: int = 40) -> ClipSizes:
    rng = np.random.default_rng(7)
    return ClipSizes(
        (seconds * rng.uniform(0.5, 1.5, clips)).tolist(),
        rng.integers(tokens // 2, tokens * 3 // 2, clips).tolist(),
        [f"speaker-{number % 5}" for number in range(clips)],
    )


def windows_of(plan: list[list[Window]]) -> list[Window]:
    return [window for step in plan for window in step]


def test_every_clip_occurs_once_an_epoch() -> None:
    plan = plan_epoch(sizes(500), TrainConfig(), seed=3, epoch=0)
    seen = Counter(clip for window in windows_of(plan) for clip in window.clips)
    assert seen == Counter(range(500))


def test_clips_that_are_held_back_are_in_no_window_of_any_epoch() -> None:
    held = range(40, 60)
    clips = replace(sizes(200), held_back=held)
    for epoch in range(3):
        plan = plan_epoch(clips, TrainConfig(), seed=3, epoch=epoch)
        seen = Counter(clip for window in windows_of(plan) for clip in window.clips)
        assert seen == Counter(set(range(200)) - set(held))


def test_the_same_seed_gives_the_same_plan_and_each_epoch_another() -> None:
    first = plan_epoch(sizes(100), TrainConfig(), seed=3, epoch=0)
    assert first == plan_epoch(sizes(100), TrainConfig(), seed=3, epoch=0)
    assert first != plan_epoch(sizes(100), TrainConfig(), seed=3, epoch=1)
    assert first != plan_epoch(sizes(100), TrainConfig(), seed=4, epoch=0)


@pytest.mark.parametrize(("seconds", "tokens"), [(4.0, 40), (7.0, 60), (2.0, 100)])
def test_windows_hold_neither_over_30_s_nor_over_444_labels(seconds: float, tokens: int) -> None:
    clips = sizes(1000, seconds, tokens)
    for window in plan_windows(clips, TrainConfig(), random.Random(0)):
        length = sum(clips.seconds[clip] for clip in window.clips)
        assert length + PAUSE_SECONDS * (len(window.clips) - 1) <= 30 + 1e-6
        labels = sum(clips.tokens[clip] + 2 * window.timestamps for clip in window.clips)
        assert labels <= 444


def test_packed_windows_are_at_least_nine_tenths_full() -> None:
    clips = sizes(5000)
    config = TrainConfig(single_clips=0, cut_clips=0, room_pauses=False, no_speech=0)
    windows = plan_windows(clips, config, random.Random(0))
    used = sum(clips.seconds)
    assert used / (30 * len(windows)) > 0.9


def test_the_asked_share_of_clips_stays_alone() -> None:
    config = TrainConfig(single_clips=0.2, cut_clips=0.3)
    alone = [it for it in plan_windows(sizes(1000), config, random.Random(0)) if len(it.clips) == 1]
    assert sum(window.cut for window in alone) == 300
    assert sum(not window.cut for window in alone) in range(200, 204)


def test_with_full_context_no_window_is_cut() -> None:
    config = TrainConfig(audio_context="full", single_clips=0.2, cut_clips=0.3)
    windows = plan_windows(sizes(1000), config, random.Random(0))
    assert not any(window.cut for window in windows)
    assert sum(len(window.clips) == 1 for window in windows) in range(200, 204)


def test_without_packing_every_clip_has_its_window() -> None:
    windows = plan_windows(sizes(50), TrainConfig(packing=False), random.Random(0))
    assert [len(window.clips) for window in windows] == [1] * 50


def test_one_speaker_windows_hold_one_speaker() -> None:
    clips = sizes(300)
    for window in plan_windows(clips, TrainConfig(one_speaker=True), random.Random(0)):
        assert len({clips.speakers[clip] for clip in window.clips}) == 1


def test_the_asked_share_of_packed_windows_has_timestamps() -> None:
    windows = plan_windows(sizes(5000), TrainConfig(timestamps=0.5), random.Random(0))
    packed = [window for window in windows if len(window.clips) > 1]
    assert sum(window.timestamps for window in packed) / len(packed) == pytest.approx(0.5, abs=0.08)


SOUNDS = TrainConfig(
    clip_timestamps=0.4, timestamp_jitter=True, room_pauses=True, no_speech=0.1, cut_clips=0.4
)


def test_the_asked_share_of_single_clips_has_timestamps() -> None:
    windows = plan_windows(sizes(2000), SOUNDS, random.Random(0))
    cut = [it for it in windows if it.cut and it.clips]
    assert len(cut) == 800
    assert sum(it.timestamps for it in cut) / 800 == pytest.approx(0.4, abs=0.06)
    assert all(it.jitter == it.timestamps for it in windows if it.clips)


def test_a_clip_with_the_most_labels_has_no_room_for_timestamps() -> None:
    clips = ClipSizes([5.0] * 50, [443] * 50, [""] * 50)
    every = TrainConfig(clip_timestamps=1, cut_clips=1)
    assert not any(it.timestamps for it in plan_windows(clips, every, random.Random(0)))


def test_pauses_with_room_tone_have_random_lengths_and_fit_the_window() -> None:
    clips = sizes(2000)
    windows = plan_windows(clips, SOUNDS, random.Random(0))
    packed = [it for it in windows if len(it.clips) > 1]
    pauses = [pause for it in packed for pause in it.pauses]
    assert all(len(it.pauses) == len(it.clips) - 1 for it in packed)
    assert 0.1 <= min(pauses) < 0.15
    assert 1.6 < max(pauses) <= 2.0
    assert len(set(pauses)) > 100
    assert max(heard_seconds(it, clips) for it in packed) <= 30
    assert all(it.seed is not None for it in packed)
    assert len({it.seed for it in packed}) == len(packed)


def test_windows_without_speech_are_a_share_of_the_clips_and_follow_the_seed() -> None:
    plan = plan_epoch(sizes(500), SOUNDS, seed=3, epoch=0)
    silent = [it for it in windows_of(plan) if not it.clips]
    assert len(silent) == 50
    assert all(1 <= it.no_speech <= 10 for it in silent if it.cut)
    assert {it.no_speech for it in silent if not it.cut} == {30.0}
    assert plan == plan_epoch(sizes(500), SOUNDS, seed=3, epoch=0)
    seen = Counter(clip for window in windows_of(plan) for clip in window.clips)
    assert seen == Counter(range(500))


@pytest.mark.parametrize(
    "switch",
    [
        {"clip_timestamps": 0.5},
        {"timestamp_jitter": True},
        {"room_pauses": True},
        {"no_speech": 0.1},
    ],
)
def test_each_switch_changes_the_plan_and_its_digest(switch: dict[str, Any]) -> None:
    clips = sizes(200)
    plain = {"clip_timestamps": 0, "timestamp_jitter": False, "room_pauses": False, "no_speech": 0}
    plans = [plan_run(clips, TrainConfig(**(plain | values)), 0) for values in ({}, switch)]
    assert digest_plan(plans[0], clips) != digest_plan(plans[1], clips)
    assert all(it.seed is None for it in windows_of(plans[0]))


def test_steps_hold_about_batch_clips() -> None:
    steps = plan_epoch(sizes(2000), TrainConfig(batch_clips=16), seed=0, epoch=0)
    counts = [sum(len(window.clips) for window in step) for step in steps]
    assert np.mean(counts) == pytest.approx(16, rel=0.1)
    assert min(counts[:-1]) >= 10


def test_a_window_over_the_batch_is_a_step_of_its_own() -> None:
    wide = Window(tuple(range(20)), timestamps=False)
    assert group_steps([wide, wide], batch_clips=8) == [[wide], [wide]]


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_no_forward_pass_is_larger_than_its_full_windows(micro_batch: int) -> None:
    clips = sizes(400, tokens=120)
    windows = plan_windows(clips, TrainConfig(), random.Random(0))
    batches = group_batches(range(len(windows)), windows, clips, micro_batch, 30.0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(windows)))
    for batch in batches:
        cut = [windows[index] for index in batch if windows[index].cut]
        if cut:
            assert len(cut) == len(batch)
            assert len(cut) * max(heard_seconds(it, clips) for it in cut) <= 30 * micro_batch
            tokens = [sum(clips.tokens[clip] for clip in it.clips) for it in cut]
            assert len(cut) * max(tokens) <= 444 * micro_batch
        else:
            assert len(batch) <= micro_batch
    assert sum(len(batch) for batch in batches) / len(batches) > 1.5 * micro_batch


def test_passes_waste_little_where_each_costs_little() -> None:
    clips = sizes(8, tokens=60)
    windows = [Window((clip,), False, cut=True) for clip in range(8)]
    padded = []
    for overhead in (0.5, 30.0):
        passes = group_batches(range(8), windows, clips, 2, overhead)
        padded.append(sum(len(it) * max(clips.seconds[i] for i in it) for it in passes))
    assert padded[0] < 1.12 * sum(clips.seconds) < padded[1]


@pytest.mark.parametrize(
    ("clips", "epochs", "asked", "taken"),
    ((480, 1, None, 1), (480, 3, None, 2), (4000, 1, None, 8), (900, 3, None, 4), (480, 1, 8, 8)),
)
def test_short_runs_take_smaller_steps(
    clips: int, epochs: int, asked: int | None, taken: int
) -> None:
    config = TrainConfig(epochs=epochs, batch_clips=asked)
    assert clips_a_step(config, clips) == taken
