"""Augmentation: the effects, the altered plan, hidden features, and the trial that decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from lorajob.errors import FilesError, StageStopped, UsageError
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import JobSpec, TrainConfig, build_spec
from lorajob.spec_training import AugmentConfig
from lorajob.speech import effects
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.tasks.start import with_sounds
from lorajob.training import held_back
from lorajob.training.augmentation import Alterer, alter_plan, make_alterer
from lorajob.training.dataset import Item, WindowDataset, collate, lay_out, micro_batches
from lorajob.training.packed import Packer, PassShape, packed_log_mel
from lorajob.training.packing import ClipSizes, Window, digest_plan, plan_run
from lorajob.training.trainer import start_run
from lorajob.whisper.tokens import Labels
from tests.support.speech import tone
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, adapter_bytes, history

ALL = AugmentConfig(use="always", speed=1, gain=1, noise=1, room=1, telephone=1, masks=1)
CONFIG = TrainConfig(batch_clips=4, cut_clips=0.5, single_clips=0.1)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def pitch(samples: np.ndarray) -> float:
    """The loudest frequency in hertz."""
    return float(np.abs(np.fft.rfft(samples)).argmax()) * 16_000 / len(samples)


def decibels(ratio: float) -> float:
    return 20 * np.log10(ratio)


def test_speed_changes_length_and_pitch() -> None:
    faster = effects.change_speed(tone(2.0), 1.1)
    assert len(faster) == round(32_000 / 1.1)
    assert pitch(faster) == pytest.approx(440 * 1.1, rel=0.01)
    assert len(effects.change_speed(tone(0.37), 0.93)) == round(0.37 * 16_000 / 0.93)
    assert effects.change_speed(tone(1.0), 1.0) is not None


def test_noise_has_the_ratio_and_nothing_exceeds_full_scale() -> None:
    rng = np.random.default_rng(0)
    clip, noise = 0.1 * tone(1.0), rng.standard_normal(5_000).astype(np.float32)
    noisy = effects.add_noise(clip, noise, 10.0)
    assert decibels(rms(clip) / rms(noisy - clip)) == pytest.approx(10.0, abs=0.01)
    assert np.array_equal(effects.add_noise(clip, np.zeros(100, np.float32), 10.0), clip)
    assert decibels(rms(effects.change_level(clip, -6.0)) / rms(clip)) == pytest.approx(-6.0)
    assert np.abs(effects.change_level(clip, 60.0)).max() == pytest.approx(1.0)


def test_a_room_keeps_length_level_and_place_of_the_speech() -> None:
    rng = np.random.default_rng(1)
    clip = np.concatenate([np.zeros(8_000, np.float32), tone(0.5), np.zeros(8_000, np.float32)])
    response = np.concatenate([np.zeros(900, np.float32), effects.room_response(rng)])
    heard = effects.reverberate(clip, response)
    assert len(heard) == len(clip)
    assert rms(heard) == pytest.approx(rms(clip), rel=1e-3)
    assert np.abs(heard[:7_999]).max() < 1e-4
    assert rms(heard[8_000:8_400]) > 0.3 * rms(clip[8_000:8_400])
    assert rms(heard[16_200:17_000]) > 1e-4  # it dies away


def test_a_telephone_keeps_its_band() -> None:
    def through(hertz: float) -> float:
        sent = tone(1.0, hertz=hertz)
        return rms(effects.telephone(sent)) / rms(sent)

    assert through(1000) == pytest.approx(1.0, abs=0.02)
    assert through(100) < 0.03
    assert through(5000) < 0.03


def sizes_of(count: int = 60) -> ClipSizes:
    rng = np.random.default_rng(3)
    seconds = [*rng.uniform(1, 9, count - 2).round(2).tolist(), 29.9, 30.0]
    return ClipSizes(seconds, [20] * count, ["a"] * count)


def test_the_altered_plan_has_the_same_steps_and_no_window_over_30_s() -> None:
    sizes = sizes_of()
    plan = plan_run(sizes, CONFIG, 0)
    altered = alter_plan(plan, sizes, ALL, 0)
    assert altered == alter_plan(plan, sizes, ALL, 0) != alter_plan(plan, sizes, ALL, 1)
    clips = [[window.clips for window in step] for step in plan]
    assert [[window.clips for window in step] for step in altered] == clips
    windows = [window for step in altered for window in step]
    speeds = [speed for window in windows for speed in window.speeds]
    assert 0.9 <= min(speeds) < 0.95 and 1.05 < max(speeds) <= 1.1
    for window in windows:
        length = sum(
            window.seconds(number, sizes.seconds[clip]) for number, clip in enumerate(window.clips)
        )
        assert length + 0.2 * (len(window.clips) - 1) <= 30.0 + 1e-9
    assert digest_plan(altered, sizes) != digest_plan(plan, sizes)


def test_a_plan_without_augmentation_keeps_its_digest() -> None:
    sizes = ClipSizes([1.5, 2.5], [3, 4], ["a", "b"])
    found = digest_plan([[Window((0,), True, cut=True, seed=5), Window((1,), False)]], sizes)
    assert found == "709aba31541933761f683894c3bae08ea4bf62eacb50e4dcaaf37b1c98b2d4a1"


def test_items_are_the_same_each_time_and_timestamps_follow_the_speed(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_whisper)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    labels = Labels(tiny_whisper, "hi")
    window = Window((0, 1), True, altered=7, speeds=(1.1, 0.9))
    dataset = WindowDataset(store, labels, [window, Window((0, 1), True)], Alterer(ALL, 80))
    item, plain = dataset[0], dataset[1]
    assert np.array_equal(item.audio, dataset[0].audio) and item.masks == dataset[0].masks
    first, second = (len(store.audio(clip)) for clip in (0, 1))
    assert len(item.audio) == round(first / 1.1) + 3200 + round(second / 0.9)
    times = [(it - labels.timestamp(0)) * 0.02 for it in item.labels if it >= labels.timestamp(0)]
    begins = first / 1.1 / 16_000 + 0.2
    wanted = [0, first / 1.1 / 16_000, begins, begins + second / 0.9 / 16_000]
    assert times == pytest.approx(wanted, abs=0.011)
    assert item.counted == plain.counted
    # Hidden parts are 0, the mean of speech, in a padded pass as in a packed one.
    run = start_run(tiny_whisper, TrainConfig(precision="float32", rank=4), 0, 10, None)
    padded = collate([plain, item])
    assert padded.kept_frames is not None and padded.kept_bins is not None
    assert padded.kept_frames[0].all() and not padded.kept_frames[1].all()
    config = run.loss.whisper.config
    shape = PassShape(3200, 320, 4)
    packer = Packer([shape], config.decoder_start_token_id, config.pad_token_id, 80)
    pass_ = packer([plain, item])
    assert pass_.kept_frames is not None and pass_.kept_bins is not None
    assert torch.equal(pass_.kept_frames[:6000], padded.kept_frames.flatten())
    assert torch.equal(pass_.kept_bins[:2], padded.kept_bins)
    with torch.no_grad():
        whole = packed_log_mel(run.loss.log_mel, pass_)
        shown = whole * pass_.kept_frames[:, None] * pass_.kept_bins[pass_.owner]
        assert float(run.loss(padded)) == pytest.approx(float(run.loss(pass_)), rel=1e-4)
    assert (shown == 0).any() and torch.equal(shown[:3000], whole[:3000])
    assert collate([plain]).kept_frames is None


def test_noises_and_rooms_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"augment\.noise_folder: .* is not a folder"):
        with_sounds(AugmentConfig(noise_folder=str(tmp_path / "none")))
    empty = AugmentConfig(room_folder=str(tmp_path))
    with pytest.raises(UsageError, match=r"augment\.room_folder: .* has no sound file \(\.wav"):
        with_sounds(empty)
    # The submission found some, so this machine lacks the share.
    with pytest.raises(FilesError, match=r"augment\.room_folder: .* is it mounted here\?"):
        make_alterer(empty, 80)
    stereo = np.stack([tone(3.0, 48_000, 3000.0)] * 2, axis=1)
    soundfile.write(tmp_path / "fan.wav", stereo, 48_000)
    (tmp_path / "._fan.wav").write_bytes(b"\0")
    config = AugmentConfig(noise_folder=str(tmp_path), noise=1, room=0, gain=0, telephone=0)
    assert with_sounds(config) == config
    alterer = make_alterer(config, 80)
    clip = tone(1.0, hertz=500.0)
    added = alterer.sound(clip, np.random.default_rng(0)) - clip
    assert pitch(added) == pytest.approx(3000, abs=2)
    (tmp_path / "fan.wav").write_bytes(b"RIFF")
    with pytest.raises(FilesError, match=r"fan\.wav: cannot be read as sound"):
        alterer.sound(clip, np.random.default_rng(0))
    soundfile.write(tmp_path / "fan.wav", np.full(16, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(FilesError, match=r"fan\.wav: .*its samples are not numbers"):
        alterer.sound(clip, np.random.default_rng(0))


class Unreadable:
    """A data set without a readable window."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Item:
        raise FilesError("/noises/fan.wav: cannot be read as sound")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_in_a_loader_process_is_one_line(workers: int) -> None:
    data: Any = Unreadable()
    with pytest.raises(FilesError, match=r"^/noises/fan\.wav: cannot be read as sound$"):
        list(micro_batches(data, [[0]], collate, workers, False))


def test_settings_that_contradict_each_other_are_one_line() -> None:
    values = {"language": "hi", "corpus": "c"}
    assert build_spec(values, sets=["augment.use=true"]).augment.use == "auto"
    assert build_spec(values, sets=["augment.use=false"]).augment.use == "off"
    assert build_spec(values, sets=["augment.use=off"]).augment.use == "off"
    with pytest.raises(UsageError, match=r"^augment\.use=auto needs a validation.*always$"):
        build_spec(values, sets=["augment.use=auto", "train.keep=last"])
    assert build_spec(values, sets=["augment.use=always", "train.keep=last"])
    with pytest.raises(UsageError, match=r"augment\.least_snr_db is over augment\.most"):
        build_spec(values, sets=["augment.least_snr_db=30"])


SETS = (*SHORT, "train.epochs=2", "train.validation_clips=4")
TRIAL = ("augment.use=auto", "augment.speed=1", "augment.noise=1", "augment.masks=1")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few clips are enough for a validation."""
    monkeypatch.setattr(held_back, "LEAST_CLIPS", 3)
    monkeypatch.setattr(held_back, "SHARE", 0.3)
    monkeypatch.setattr(held_back, "COST_SHARE", 0.5)


def losses(job: JobDir) -> list[float]:
    return [row["loss"] for row in history(job)]


@pytest.mark.usefixtures("few")
def test_a_trial_takes_the_last_steps_twice_and_goes_on_after_stops(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = 50

    def decoded(validator, done):
        second = validator.held.points[0] > 10
        return [str(better if second else 50)] * len(validator.held.clips)

    class Rated:
        def __init__(self, text: str) -> None:
            self.wer = self.cer = float(text)

    place = "lorajob.training.validation."
    monkeypatch.setattr(f"{place}Validator._decode", decoded)
    monkeypatch.setattr(f"{place}score", lambda texts, heard, language: Rated(heard[0]))

    off = make_job(tmp_path / "off", tiny_whisper, *SETS)
    without = run_stage("train", off, 1, Report("train")).as_json()
    job = make_job(tmp_path / "job", tiny_whisper, *SETS, *TRIAL)
    trial = lay_out(JobSpec.load(job.spec_path), job).trial
    assert trial is not None
    assert (trial.begins, trial.plain, without["steps"]) == (5, 10, 10)
    # Stops: between fork and turn, and in the second part.
    for attempt, step in enumerate((7, 14), start=1):
        with pytest.raises(StageStopped):
            run_stage("train", job, attempt, StopAt(step))
    result = run_stage("train", job, 3, Report("train")).as_json()
    assert (result["resumed_from"], result["steps"]) == (14, 15)
    # At equal rates it stays off, and the job is the one without augmentation.
    assert result["augmented"] is False and not result["augmentation"]["kept"]
    assert adapter_bytes(job) == adapter_bytes(off)
    assert losses(job)[:10] == losses(off)
    assert (result["loss"], result["kept"]) == (without["loss"], without["kept"])
    second = history(job)[10:]
    assert [row["loss"] for row in second] != losses(off)[5:]
    assert [row["learning_rate"] for row in second] == [
        row["learning_rate"] for row in history(off)[5:]
    ]
    points = [it["step"] for it in result["validation"]]
    assert points == [it["step"] for it in without["validation"]] + [it for it in points if it > 10]
    assert points[-1] == 15

    better = 20
    whole = make_job(tmp_path / "whole", tiny_whisper, *SETS, *TRIAL)
    kept = run_stage("train", whole, 1, Report("train")).as_json()
    assert kept["augmented"] is True and kept["augmentation"]["kept"]
    rates = [kept["augmentation"][part]["wer"] for part in ("plain", "augmented")]
    assert rates == [50, 20]
    assert losses(whole) == losses(job)  # the stops changed nothing
    assert adapter_bytes(whole) != adapter_bytes(off)
    assert int(kept["kept"]) > 10
    assert kept["notes"] == [
        "Augmentation was kept by a trial: WER 20.0 % with it, 50.0 % without, on 3 held-back "
        "clips (0.0 points lower, 95 % interval 0.0 to 0.0)."
    ]


def test_without_clips_to_hold_back_augmentation_stays_off_and_the_log_says_so(
    tiny_whisper: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job = make_job(tmp_path, tiny_whisper, *SETS, "augment.use=auto")
    course = lay_out(JobSpec.load(job.spec_path), job)
    assert course.trial is None and all(it.altered is None for step in course.plan for it in step)
    assert "augmentation stays off: no clips are held back" in caplog.text
    always = job.root / "always"
    spec = JobSpec.load(job.spec_path)
    spec = spec.model_copy(update={"augment": spec.augment.model_copy(update={"use": "always"})})
    altered = lay_out(spec, job)
    assert all(it.altered is not None for step in altered.plan for it in step)
    assert altered.digest != course.digest and not always.exists()
