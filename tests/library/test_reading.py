"""Large corpora are shuffled in blocks, and read ahead."""

import random
from pathlib import Path

import numpy as np
import pytest

from lorajob.spec import TrainConfig
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.training import reading
from lorajob.training.packing import ClipSizes, Window, group_steps, plan_epoch, plan_windows
from lorajob.training.reading import ReadAhead
from lorajob.training.shuffling import BLOCK_CLIPS, shuffle_buffers
from tests.support.service import wait_for

CLIPS = 60_000  # of 4 s: 66.7 hours
SPEAKER_CLIPS = 100  # each speaker's clips follow each other


def corpus() -> ClipSizes:
    speakers = [str(clip // SPEAKER_CLIPS) for clip in range(CLIPS)]
    return ClipSizes([4.0] * CLIPS, [40] * CLIPS, speakers, held_back=range(1000, 1100))


def test_a_corpus_that_fits_the_buffer_is_shuffled_as_a_whole() -> None:
    small = ClipSizes([4.0] * 900, [40] * 900, ["a"] * 900)
    for config in (TrainConfig(batch_clips=8), TrainConfig(batch_clips=8, shuffle_hours=1)):
        rng = random.Random("3/1")
        windows = plan_windows(small, config, rng)
        rng.shuffle(windows)
        assert plan_epoch(small, config, seed=3, epoch=1) == group_steps(windows, 8)


def test_a_large_corpus_is_read_block_by_block_and_still_well_mixed() -> None:
    sizes, config = corpus(), TrainConfig(batch_clips=64, shuffle_hours=20)
    plan = plan_epoch(sizes, config, seed=3, epoch=0)
    assert plan == plan_epoch(sizes, config, seed=3, epoch=0)
    order = [clip for step in plan for window in step for clip in window.clips]
    assert sorted(order) == sizes.trained
    # Four buffers of 59 blocks. A block is read in one of them only.
    quarter = len(order) // 4
    blocks = [
        {clip // BLOCK_CLIPS for clip in order[first : first + quarter]}
        for first in range(0, 4 * quarter, quarter)
    ]
    assert all(55 <= len(it) <= 60 + 59 for it in blocks)
    assert sum(map(len, blocks)) < 1.6 * (CLIPS / BLOCK_CLIPS)
    # Each buffer has clips from all over the corpus, other ones in the next epoch.
    tenths = [np.bincount([it * 10 * BLOCK_CLIPS // CLIPS for it in each]) for each in blocks]
    assert min(map(min, tenths)) >= 1
    following = plan_epoch(sizes, config, seed=3, epoch=1)
    again = {clip // BLOCK_CLIPS for step in following[:100] for it in step for clip in it.clips}
    assert not again <= blocks[0]
    # A step of 64 clips has 40 speakers and more, where a shuffle of the whole has about 60. Read
    # in order, it would have two.
    speakers = [
        len({sizes.speakers[clip] for window in step for clip in window.clips}) for step in plan
    ]
    assert np.mean(speakers) > 45
    assert np.quantile(speakers, 0.01) >= 35
    places = np.corrcoef(order, range(len(order)))[0, 1]
    assert abs(places) < 0.1


def test_buffers_have_about_the_hours_asked_for() -> None:
    sizes = corpus()
    buffers = shuffle_buffers(sizes.trained, sizes.seconds, 20, random.Random(0))
    assert [round(4 * len(it) / 3600) for it in buffers] == [17, 17, 16, 16]
    assert sorted(clip for it in buffers for clip in it) == sizes.trained
    # A buffer is at least a block.
    tiny = shuffle_buffers(range(600), [4.0] * 600, 0.001, random.Random(0))
    assert sorted(map(len, tiny)) == [88, 256, 256]
    least = shuffle_buffers(range(600), [4.0] * 600, 5e-324, random.Random(0))
    assert least == tiny


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    with ClipWriter(tmp_path / "train", "pcm16", shard_bytes=100 * 64) as writer:
        for number in range(260):
            samples = np.full(32, number / 1000, np.float32)
            writer.add(str(number), samples, "", "", 1)
    return ClipStore(tmp_path / "train")


def test_an_extent_holds_the_bytes_of_its_clips(store: ClipStore) -> None:
    assert len(list(store.folder.glob("shard-*"))) > 1
    for clips in (range(3), range(64, 128), range(250, 260)):
        data = b""
        for extent in store.extents(clips):
            assert extent.path.parent == store.folder
            data += extent.path.read_bytes()[extent.start : extent.start + extent.size]
        for clip in clips:
            assert np.rint(store.audio(clip) * 32768).astype("<i2").tobytes() in data
    assert store.extents(range(260, 300)) == []


def test_blocks_are_read_before_their_windows_and_once(
    store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_CLIPS", 64)
    clips = [0, 1, 70, 2, 130, 71, 200, 3, 259]
    windows = [Window((clip,), False, True) for clip in clips]
    # The clip 1 is encoded already, and the training continues behind the first window.
    ahead = ReadAhead(store, windows, 1, 3, encoded={1})
    try:
        assert ahead.blocks == []
        ahead.reach(1)
        wait_for(lambda: len(ahead.blocks) == 3)
        ahead.reach(3)
        # Clip 3 is due with the last windows; its block was read four windows before.
        wait_for(lambda: len(ahead.blocks) == 4)
        assert ahead.blocks == [1, 0, 2, 3]
        ahead.reach(6)
        wait_for(lambda: len(ahead.blocks) == 6)
        assert ahead.blocks == [1, 0, 2, 3, 0, 4]
    finally:
        ahead.close()


def test_a_clip_that_cannot_be_read_ahead_is_left_to_the_training(
    store: ClipStore, caplog: pytest.LogCaptureFixture
) -> None:
    extents = store.extents(range(260))
    for path in {it.path for it in extents}:
        path.unlink()
    ahead = ReadAhead(store, [Window((0,), False, True)], 0, 1)
    with caplog.at_level("INFO"):
        ahead.reach(0)
        wait_for(lambda: "not read ahead" in caplog.text)
        ahead.close()
    assert ahead.blocks == []
    assert len(store.audio(0)) == 32
