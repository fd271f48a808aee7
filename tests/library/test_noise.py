"""Room tone, noises and the quiet edges of clips, and the windows that are made of them."""

from pathlib import Path

import numpy as np
import pytest

from lorajob.errors import StageStopped
from lorajob.job.report import Report
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.speech.noise import NOISE_KINDS, NoiseKind, noise, room_tone, speech_span
from lorajob.stage import run_stage
from lorajob.training.dataset import WindowDataset
from lorajob.training.packing import Window
from lorajob.whisper.tokens import Labels
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, adapter_bytes

RATE = 16_000


def spoken(before: float, during: float, behind: float, floor: float = 1e-3) -> np.ndarray:
    """A loud tone between quiet parts of noise."""
    rng = np.random.default_rng(0)
    samples = floor * rng.standard_normal(round((before + during + behind) * RATE))
    first, last = round(before * RATE), round((before + during) * RATE)
    samples[first:last] += 0.3 * np.sin(np.arange(last - first) * 0.2)
    return samples.astype(np.float32)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def test_speech_lies_within_its_span_and_the_quiet_edges_outside() -> None:
    first, last = speech_span(spoken(0.8, 1.5, 0.6))
    assert 0.65 <= first <= 0.8
    assert 2.3 <= last <= 2.45


@pytest.mark.parametrize(
    "samples",
    [
        spoken(0, 2, 0),
        spoken(0.5, 1, 0.5, floor=0.2),  # the noise is nearly as loud as the speech
        np.zeros(RATE, np.float32),
        np.zeros(10, np.float32),
        np.zeros(0, np.float32),
    ],
)
def test_without_clear_quiet_edges_the_span_is_the_clip(samples: np.ndarray) -> None:
    assert speech_span(samples) == (0.0, len(samples) / RATE)


def test_room_tone_has_the_level_and_colour_of_the_quiet_parts() -> None:
    rng = np.random.default_rng(1)
    clip = spoken(0.5, 1, 0.5, floor=0)
    low = np.convolve(rng.standard_normal(len(clip)), np.ones(16), "same")  # below 1 kHz
    clip += (1e-3 * low / rms(low)).astype(np.float32)
    tone = room_tone(clip, RATE, np.random.default_rng(2))
    assert tone.dtype == np.float32
    assert len(tone) == RATE
    assert rms(tone) == pytest.approx(1e-3, rel=0.5)
    power = np.square(np.abs(np.fft.rfft(tone)))
    assert power[: len(power) // 8].sum() > 5 * power[len(power) // 2 :].sum()
    again = room_tone(clip, RATE, np.random.default_rng(2))
    assert (tone == again).all()


def test_room_tone_is_far_below_the_speech_and_silence_gives_silence() -> None:
    loud = room_tone(spoken(0, 2, 0), RATE, np.random.default_rng(0))
    assert 0 < rms(loud) <= 0.1 * 0.3
    assert not room_tone(np.zeros(RATE, np.float32), 100, np.random.default_rng(0)).any()
    assert len(room_tone(spoken(0, 1, 0), 0, np.random.default_rng(0))) == 0


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noises_are_finite_and_within_scale(kind: NoiseKind) -> None:
    samples = noise(kind, RATE, np.random.default_rng(3))
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1
    assert (rms(samples) == 0) == (kind == "silence")
    if kind.startswith("hum"):
        power = np.square(np.abs(np.fft.rfft(samples)))
        pitch = int(kind[3:])
        assert power[[pitch * n for n in range(1, 6)]].sum() > 0.9 * power.sum()


def dataset_of(tmp_path: Path, whisper: Path, *windows: Window) -> WindowDataset:
    labels = Labels(whisper, "hi")
    with ClipWriter(tmp_path / "clips", "pcm16") as writer:
        for number, text in enumerate(("हमने किया", "पानी")):
            writer.add(str(number), spoken(0.8, 1.5, 0.6), text, "", labels.count(text))
    return WindowDataset(ClipStore(tmp_path / "clips"), labels, windows)


def times(dataset: WindowDataset, index: int) -> list[float]:
    first = dataset.labels.timestamp(0)
    return [round((it - first) * 0.02, 2) for it in dataset[index].labels if it >= first]


def test_timestamps_are_drawn_from_the_quiet_edges(tmp_path: Path, whisper_base: Path) -> None:
    drawn = [Window((0,), True, True, jitter=True, seed=seed) for seed in range(20)]
    dataset = dataset_of(tmp_path, whisper_base, *drawn, Window((0,), True, True))
    pairs = [times(dataset, index) for index in range(20)]
    assert len({tuple(it) for it in pairs}) > 10
    for start, end in pairs:
        assert 0 <= start <= 0.8
        assert 2.3 <= end <= 2.9
    assert times(dataset, 20) == [0.0, 2.9]
    assert dataset.count_labels(0) == len(dataset[0].labels) - 2
    assert dataset[3].labels == dataset[3].labels


def test_pauses_of_a_window_are_room_tone_and_move_the_timestamps(
    tmp_path: Path, whisper_base: Path
) -> None:
    windows = Window((0, 1), True, pauses=(1.5,), seed=1), Window((0, 1), True)
    dataset = dataset_of(tmp_path, whisper_base, *windows)
    assert times(dataset, 0) == [0.0, 2.9, 4.4, 7.3]
    assert times(dataset, 1) == [0.0, 2.9, 3.1, 6.0]
    audio, plain = dataset[0].audio, dataset[1].audio
    assert audio is not None
    assert plain is not None
    assert len(audio) == round(7.3 * RATE)
    assert 2e-4 < rms(audio[round(2.9 * RATE) : round(4.4 * RATE)]) < 5e-3
    assert not plain[round(2.9 * RATE) : round(3.1 * RATE)].any()


def test_windows_without_speech_have_empty_text(tmp_path: Path, whisper_base: Path) -> None:
    windows = (
        Window((), False, True, seed=1, no_speech=2.5),
        Window((), True, False, seed=2, no_speech=30.0),
    )
    dataset = dataset_of(tmp_path, whisper_base, *windows)
    labels = dataset.labels
    assert dataset[0].labels[dataset[0].prompt :] == [labels.end]
    assert dataset[1].labels[dataset[1].prompt :] == [labels.timestamp(0), labels.end]
    for index, seconds in ((0, 2.5), (1, 30)):
        audio = dataset[index].audio
        assert audio is not None
        assert len(audio) == seconds * RATE


@pytest.mark.slow
def test_a_stopped_training_with_drawn_sounds_continues_to_the_same_bytes(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    sets = (*SHORT, "train.clip_timestamps=0.5", "train.timestamp_jitter=true", "train.epochs=1")
    sets += ("train.room_pauses=true", "train.no_speech=0.2", "train.cut_clips=0.5")
    whole = make_job(tmp_path / "whole", tiny_whisper, *sets)
    run_stage("train", whole, 1, Report("train"))
    job = make_job(tmp_path / "job", tiny_whisper, *sets)
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(3))
    run_stage("train", job, 2, Report("train"))
    assert adapter_bytes(job) == adapter_bytes(whole)
