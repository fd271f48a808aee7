"""Where the encoder does not change, it hears a clip once."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorajob.errors import StageStopped
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.stage import run_stage
from lorajob.training import loss
from lorajob.training.checkpoint import newest_checkpoint
from lorajob.training.dataset import WindowDataset, collate
from lorajob.training.encoder_cache import EncodedClips, clips_heard_again, shard_path, write_shard
from lorajob.training.loss import WhisperLoss
from lorajob.training.packing import ClipSizes, Window, group_batches, pass_seconds
from lorajob.whisper.model import load_for_training
from lorajob.whisper.tokens import Labels
from tests.support.tiny import make_job
from tests.support.training import SHORT, StopAt, adapter_bytes, history

DECODER = (*SHORT, "train.decoder_only=true", "train.epochs=3")
CUT_ONLY = "train.cut_clips=1"
CLIPS = 12  # of make_job


def losses(job: JobDir) -> list[float]:
    return [row["loss"] for row in history(job)]


@pytest.fixture
def encoded_windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows the encoder has heard, pass by pass."""
    heard: list[int] = []
    encode = loss.encode_features

    def counted(encoder: Any, features: Tensor) -> Tensor:
        heard.append(len(features))
        return encode(encoder, features)

    monkeypatch.setattr(loss, "encode_features", counted)
    return heard


@pytest.mark.parametrize(
    ("gigabytes", "times"), [(8, 1), (0, 3)], ids=["what is stored", "what is not"]
)
def test_a_clip_is_encoded_once_and_learned_from_in_every_epoch(
    tiny_whisper: Path, tmp_path: Path, encoded_windows: list[int], gigabytes: int, times: int
) -> None:
    stored = f"train.encoder_outputs_gb={gigabytes}"
    job = make_job(tmp_path, tiny_whisper, *DECODER, CUT_ONLY, stored)
    result = run_stage("train", job, 1, Report("train"))
    assert result.as_json()["steps"] == 3 * CLIPS / 2
    assert sum(encoded_windows) == times * CLIPS
    left = [path.name for path in job.stage_dir("train").rglob("*") if "outputs" in path.name]
    assert left == []


@pytest.mark.usefixtures("exact_lengths")
def test_stored_outputs_train_as_fresh_ones(tiny_whisper: Path, tmp_path: Path) -> None:
    jobs = []
    for number, gigabytes in enumerate((8, 0)):
        # a clip alone in a pass: of two, the decoder would hear the shorter one's padding
        sets = ("train.batch_clips=1", f"train.encoder_outputs_gb={gigabytes}")
        jobs.append(make_job(tmp_path / str(number), tiny_whisper, *DECODER, *sets))
        run_stage("train", jobs[-1], 1, Report("train"))
    assert losses(jobs[0]) == pytest.approx(losses(jobs[1]), rel=2e-4)
    assert losses(jobs[0]) != losses(jobs[1])  # the encoder is given several clips at a time


@pytest.mark.parametrize("step", [2, 9])
def test_a_stopped_run_goes_on_with_the_same_outputs(
    tiny_whisper: Path, tmp_path: Path, step: int
) -> None:
    jobs = [make_job(tmp_path / name, tiny_whisper, *DECODER) for name in ("whole", "stopped")]
    run_stage("train", jobs[0], 1, Report("train"))
    with pytest.raises(StageStopped):
        run_stage("train", jobs[1], 1, StopAt(step))
    result = run_stage("train", jobs[1], 2, Report("train"))
    assert result.as_json()["resumed_from"] == step
    assert adapter_bytes(jobs[1]) == adapter_bytes(jobs[0])


def test_a_stop_while_clips_are_encoded_is_heeded(tiny_whisper: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_whisper, *DECODER, CUT_ONLY)
    with pytest.raises(StageStopped):
        run_stage("train", job, 1, StopAt(0))
    assert newest_checkpoint(job.checkpoints) is None


@pytest.mark.usefixtures("exact_lengths")
def test_padding_behind_encoder_outputs_is_not_heard(tiny_whisper: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny_whisper)
    store = ClipStore(job.stage_dir("preprocess") / "train")
    windows = [Window((clip,), False, cut=True) for clip in range(4)]
    dataset = WindowDataset(store, Labels(tiny_whisper, "hi"), windows)
    config = TrainConfig(rank=4, precision="float32")
    whisper = WhisperLoss(load_for_training(tiny_whisper, config, torch.device("cpu"))).eval()
    with torch.no_grad():
        fresh = [float(whisper(collate([dataset[index]]))) for index in range(4)]
        for number in range(4):
            write_shard(shard_path(tmp_path, number), [number], store, whisper.encode, print)
        dataset.encoded = EncodedClips(tmp_path, [[0], [1], [2], [3]])
        batch = collate([dataset[index] for index in range(4)])
        assert batch.audio is None
        assert batch.frames is not None
        assert float(whisper(batch)) == pytest.approx(sum(fresh), rel=1e-6)
        whisper(collate([dataset[0]]))  # one alone has no padding
        assert float(whisper(batch)) == pytest.approx(sum(fresh), rel=1e-6)


def test_processes_that_read_ahead_find_the_same_outputs(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    store = ClipStore(make_job(tmp_path, tiny_whisper, clips=3).stage_dir("preprocess") / "train")
    write_shard(shard_path(tmp_path, 0), [2, 0], store, lambda audio: audio[..., None], print)
    there = EncodedClips(tmp_path, [[2, 0]])
    assert (len(there), 0 in there, 1 in there) == (2, True, False)
    before = there[2]
    again = pickle.loads(pickle.dumps(there))
    assert torch.equal(again[2], before)


def test_only_what_comes_again_is_stored_and_the_longest_first() -> None:
    windows = [Window((clip,), False, cut=True) for clip in (0, 1, 2, 0, 1, 2, 3)]
    windows += [Window((3,), False), Window((3,), False)]
    seconds = [1.5, 3.5, 2.5, 9.5]
    frame = 100  # bytes
    assert clips_heard_again(windows, seconds, frame, 1e9) == [[1, 2, 0]]
    assert clips_heard_again(windows, seconds, frame, (4 + 3) * 50 * frame) == [[1, 2]]
    assert clips_heard_again(windows, seconds, frame, 0) == []
    assert clips_heard_again(windows[:3], seconds, frame, 1e9) == []


def test_a_pass_holds_either_stored_outputs_or_audio() -> None:
    sizes = ClipSizes([2.0] * 6, [20] * 6, [""] * 6)
    windows = [Window((clip,), False, cut=True) for clip in range(5)] + [Window((5,), False)]
    passes = group_batches(range(6), windows, sizes, 4, 30.0, {0, 2, 5})
    assert sorted(map(sorted, passes)) == [[0, 2], [1, 3, 4], [5]]
    assert pass_seconds([0, 2], windows, sizes, {0, 2}) == pytest.approx(2 * 20 * 0.045)
    assert pass_seconds([1, 3], windows, sizes, {0, 2}) == pytest.approx(2 * (2.5 + 20 * 0.045))
