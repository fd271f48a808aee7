"""Stores of clips."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from lorajob.errors import StageError
from lorajob.speech.clipstore import ClipStore, ClipWriter
from tests.support.speech import tone


def write(folder, count, audio_format="flac", shard_bytes=1 << 28):
    with ClipWriter(folder, audio_format, shard_bytes) as writer:
        for number in range(count):
            samples = tone(0.1 + 0.01 * number, hertz=200 + 10 * number)
            writer.add(f"clip-{number}", samples, f"वाक्य {number}", f"s{number % 2}", number)
    return ClipStore(folder)


@pytest.mark.parametrize("audio_format", ["flac", "pcm16"])
def test_a_store_gives_back_what_was_written(tmp_path, audio_format):
    store = write(tmp_path / "train", 5, audio_format)
    assert len(store) == 5
    assert store.ids == [f"clip-{number}" for number in range(5)]
    assert store.texts[3] == "वाक्य 3"
    assert store.speakers == ["s0", "s1", "s0", "s1", "s0"]
    assert store.tokens.dtype == np.int32
    assert store.tokens.tolist() == [0, 1, 2, 3, 4]
    assert store.seconds.dtype == np.float32
    np.testing.assert_allclose(store.seconds, [0.1, 0.11, 0.12, 0.13, 0.14], atol=1e-6)
    for number in range(5):
        samples = store.audio(number)
        assert samples.dtype == np.float32
        np.testing.assert_allclose(
            samples, tone(0.1 + 0.01 * number, hertz=200 + 10 * number), atol=1 / 32768
        )


def test_flac_and_pcm_hold_the_same_samples(tmp_path):
    flac = write(tmp_path / "flac", 2, "flac")
    pcm = write(tmp_path / "pcm", 2, "pcm16")
    np.testing.assert_array_equal(flac.audio(1), pcm.audio(1))


def test_samples_at_the_edge_do_not_wrap(tmp_path):
    with ClipWriter(tmp_path, "pcm16") as writer:
        writer.add("loud", np.array([1.0, -1.0, 2.0], dtype=np.float32), "", "", 1)
    np.testing.assert_allclose(ClipStore(tmp_path).audio(0), [1, -1, 1], atol=1e-4)


def test_clips_are_found_across_shards(tmp_path):
    store = write(tmp_path, 9, "pcm16", shard_bytes=10_000)
    assert len(list(tmp_path.glob("shard-*.arrow"))) > 2
    assert len(store) == len(store.ids) == 9
    for number in (0, 4, 8):
        assert len(store.audio(number)) == round((0.1 + 0.01 * number) * 16_000)
    for number in (-1, 9):
        with pytest.raises(IndexError):
            store.audio(number)


def test_a_store_is_small_to_pickle_and_another_process_reads_it(tmp_path):
    store = write(tmp_path, 3)
    expected = float(np.abs(store.audio(2)).sum())
    data = pickle.dumps(store)
    assert len(data) < 1000
    code = (
        "import pickle, sys; store = pickle.loads(sys.stdin.buffer.read());"
        "print(len(store), float(abs(store.audio(2)).sum()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True
    )
    assert found.stdout.split()[0] == b"3"
    assert float(found.stdout.split()[1]) == pytest.approx(expected)


def test_an_interrupted_writer_leaves_no_half_shard(tmp_path):
    with pytest.raises(RuntimeError), ClipWriter(tmp_path, "flac") as writer:
        writer.add("a", tone(0.1), "", "", 1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_store_may_be_empty_but_must_exist(tmp_path):
    store = write(tmp_path / "train", 0)
    assert len(store) == 0
    assert store.ids == []
    assert store.seconds.shape == (0,)
    with pytest.raises(StageError, match="preprocess has not run"):
        ClipStore(tmp_path / "none")
