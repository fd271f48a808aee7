"""Decoding."""

import io

import av
import numpy as np
import pytest

from lorajob.speech.audio import SAMPLE_RATE, AudioError, decode
from tests.support.speech import mp3, sound_bytes, tone


def encode_av(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    """What libsndfile cannot write, by FFmpeg's own encoders."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


def pitch(samples: np.ndarray) -> float:
    """Hertz of the loudest frequency, a second in the middle apart from edges."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 44_100),
        ("WAV", "FLOAT", 16_000),
        ("FLAC", "PCM_24", 48_000),
        ("MP3", None, 48_000),
        ("OGG", "VORBIS", 22_050),
        ("OGG", "OPUS", 48_000),
    ],
)
def test_what_libsndfile_reads_becomes_16_khz(kind, subtype, rate):
    samples = decode(sound_bytes(tone(1.0, rate), rate, kind, subtype), 30)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(SAMPLE_RATE, rel=0.1)
    assert pitch(samples) == pytest.approx(440, abs=3)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("container", "codec"), [("ipod", "aac"), ("adts", "aac"), ("matroska", "libopus")]
)
def test_what_libsndfile_cannot_read_goes_through_pyav(container, codec, tmp_path):
    data = encode_av(tone(1.0, 48_000), 48_000, container, codec)
    path = tmp_path / "clip"
    path.write_bytes(data)
    for audio in (data, path):
        samples = decode(audio, 30)
        assert len(samples) == pytest.approx(SAMPLE_RATE, rel=0.1)
        assert pitch(samples) == pytest.approx(440, abs=3)
    with pytest.raises(AudioError, match=r"over 0\.5 s"):
        decode(data, 0.5)


def test_channels_are_averaged():
    stereo = np.stack([tone(1.0), np.zeros(SAMPLE_RATE, dtype=np.float32)], axis=1)
    samples = decode(sound_bytes(stereo, SAMPLE_RATE), 30)
    assert np.abs(samples).max() == pytest.approx(0.15, abs=0.01)


def test_exactly_the_limit_is_allowed_and_a_little_more_is_not():
    assert len(decode(sound_bytes(tone(2.0, 48_000), 48_000), 2.0)) == 2 * SAMPLE_RATE
    with pytest.raises(AudioError) as caught:
        decode(sound_bytes(tone(2.01, 48_000), 48_000), 2.0)
    assert caught.value.reason == "over 2 s"


def test_a_long_file_is_refused_before_it_is_decoded(monkeypatch):
    import soundfile

    def refuse(*args, **kwargs):
        raise AssertionError("decoded")

    data = mp3(3.0)
    monkeypatch.setattr(soundfile.SoundFile, "read", refuse)
    with pytest.raises(AudioError, match="over 2 s"):
        decode(data, 2.0)


@pytest.mark.parametrize("data", [b"", b"no audio at all" * 100, b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_audio_is_unreadable(data, tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    for audio in (data, path):
        with pytest.raises(AudioError) as caught:
            decode(audio, 30)
        assert caught.value.reason == "unreadable audio"


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(AudioError) as caught:
        decode(tmp_path / "none.mp3", 30)
    assert caught.value.reason == "unreadable audio"


def test_a_playlist_is_not_followed_to_other_files(tmp_path):
    other = tmp_path / "other.wav"
    other.write_bytes(sound_bytes(tone(1.0), SAMPLE_RATE))
    playlists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{other}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile '{other}'\n",
    }
    for name, text in playlists.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(AudioError, match="unreadable audio"):
            decode(path, 30)


def test_samples_that_are_no_numbers_are_unreadable():
    samples = tone(1.0)
    samples[100] = np.nan
    with pytest.raises(AudioError, match="not numbers"):
        decode(sound_bytes(samples, SAMPLE_RATE, "WAV", "FLOAT"), 30)


@pytest.mark.parametrize("kind", ["MP3", "FLAC"])
def test_a_file_cut_off_in_the_middle_is_unreadable(kind):
    noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    data = sound_bytes(noise, SAMPLE_RATE, kind)
    with pytest.raises(AudioError, match="unreadable audio"):
        decode(data[: len(data) // 2], 30)


def test_a_flac_that_does_not_know_its_length_is_read_all_the_same():
    data = bytearray(sound_bytes(tone(1.0), SAMPLE_RATE, "FLAC"))
    data[21] &= 0xF0  # the last 36 bits before the checksum: total samples, 0 for unknown
    data[22:26] = bytes(4)
    assert len(decode(bytes(data), 30)) == SAMPLE_RATE
    with pytest.raises(AudioError, match=r"over 0\.5 s"):
        decode(bytes(data), 0.5)


def test_an_empty_recording_has_no_samples():
    assert len(decode(sound_bytes(tone(0), 48_000), 30)) == 0
