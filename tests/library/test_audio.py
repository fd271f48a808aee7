"""Decoding."""

import io

import av
import numpy as np
import pytest
import soundfile

from lorajob.speech.audio import SAMPLE_RATE, AudioError, length, load_audio
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
    samples = load_audio(sound_bytes(tone(1.0, rate), rate, kind, subtype), 30)
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
        samples = load_audio(audio, 30)
        assert len(samples) == pytest.approx(SAMPLE_RATE, rel=0.1)
        assert pitch(samples) == pytest.approx(440, abs=3)
    with pytest.raises(AudioError, match=r"over 0\.5 s"):
        load_audio(data, 0.5)


def test_channels_are_averaged():
    stereo = np.stack([tone(1.0), np.zeros(SAMPLE_RATE, dtype=np.float32)], axis=1)
    samples = load_audio(sound_bytes(stereo, SAMPLE_RATE), 30)
    assert np.abs(samples).max() == pytest.approx(0.15, abs=0.01)


def test_exactly_the_limit_is_allowed_and_a_little_more_is_not():
    assert len(load_audio(sound_bytes(tone(2.0, 48_000), 48_000), 2.0)) == 2 * SAMPLE_RATE
    with pytest.raises(AudioError) as caught:
        load_audio(sound_bytes(tone(2.01, 48_000), 48_000), 2.0)
    assert caught.value.reason == "too long, over 2 s"


def test_a_long_file_is_refused_before_it_is_decoded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("decoded")

    data = mp3(3.0)
    monkeypatch.setattr(soundfile.SoundFile, "read", refuse)
    with pytest.raises(AudioError, match="over 2 s"):
        load_audio(data, 2.0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no audio at all" * 100, "not audio"),
        ("कोई आवाज़ नहीं".encode() * 100, "not audio"),
        (bytes(range(256)) * 20, "not audio"),
        (b"RIFF\x00\x00\x00\x00WAVE", "truncated"),
        (b"OggS" + bytes(100), "truncated"),
    ],
)
def test_what_cannot_be_decoded_is_dropped_by_its_true_reason(data, reason, tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    for audio in (data, path):
        with pytest.raises(AudioError) as caught:
            load_audio(audio, 30)
        assert caught.value.reason == reason


def test_a_missing_file_is_not_found_and_an_empty_one_is_not_audio(tmp_path):
    for audio in (b"", tmp_path / "none.mp3", tmp_path):
        with pytest.raises(AudioError) as caught:
            load_audio(audio, 30)
        assert caught.value.reason == "not found"
    with pytest.raises(AudioError, match=f"not found: {tmp_path}/none.mp3"):
        load_audio(tmp_path / "none.mp3", 30)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="not audio: 0 bytes"):
        load_audio(tmp_path / "empty.wav", 30)


@pytest.mark.parametrize(
    ("kind", "subtype", "endian"),
    [
        ("WAV", "PCM_16", None),
        ("WAV", "PCM_16", "BIG"),
        ("WAV", "PCM_24", None),
        ("WAV", "PCM_U8", None),
        ("WAV", "FLOAT", None),
        ("WAV", "ALAW", None),
        ("WAV", "IMA_ADPCM", None),
        ("WAVEX", "PCM_16", None),
        ("RF64", "PCM_16", None),
        ("W64", "PCM_16", None),
        ("AIFF", "PCM_16", None),
        ("AU", "PCM_16", None),
        ("CAF", "PCM_16", None),
        ("FLAC", "PCM_16", None),
        ("MP3", "MPEG_LAYER_III", None),
        ("OGG", "VORBIS", None),
        ("OGG", "OPUS", None),
    ],
)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_what_the_header_promises_must_be_there(kind, subtype, endian, share):
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, noise, SAMPLE_RATE, format=kind, subtype=subtype, endian=endian)
    data = file.getvalue()
    assert len(load_audio(data, 30)) == pytest.approx(2 * SAMPLE_RATE, abs=1200)
    with pytest.raises(AudioError) as caught:
        load_audio(data[: int(share * len(data))], 30)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        *(("ipod", "aac"), ("mov", "aac"), ("adts", "aac"), ("mpegts", "aac"), ("webm", "libopus")),
        *(("avi", "pcm_s16le"), ("ogg", "libopus"), ("wv", "wavpack"), ("mp3", "libmp3lame")),
    ],
)
def test_what_ffmpeg_reads_is_held_to_its_promise_too(container, codec):
    data = encode_av(tone(2.0, 48_000), 48_000, container, codec)
    with av.open(io.BytesIO(data)) as opened:
        seconds = sum(it.samples for it in opened.decode(audio=0)) / 48_000
    assert len(load_audio(data, 30)) / SAMPLE_RATE == pytest.approx(seconds, abs=0.03)
    with pytest.raises(AudioError) as caught:
        load_audio(data[: len(data) // 2], 30)
    assert caught.value.reason == "truncated"


def test_a_file_that_ends_in_its_table_of_contents_or_before_its_sound_is_truncated():
    mp4 = encode_av(tone(2.0, 48_000), 48_000, "ipod", "aac")
    mp3 = sound_bytes(tone(3.0), SAMPLE_RATE, "MP3", "MPEG_LAYER_III")
    adpcm = sound_bytes(tone(3.0), SAMPLE_RATE, "WAV", "MS_ADPCM")
    for data in (mp4[: int(0.97 * len(mp4))], mp3[: len(mp3) // 2], adpcm[:200]):
        with pytest.raises(AudioError) as caught:
            load_audio(data, 30)
        assert caught.value.reason == "truncated"


def test_a_whole_file_that_ends_with_other_bytes_is_not_truncated():
    ogg = sound_bytes(tone(1.0), SAMPLE_RATE, "OGG", "VORBIS")
    mp4 = encode_av(tone(1.0, 48_000), 48_000, "ipod", "aac")
    for data in (ogg + b"TAG" + bytes(125), mp4 + bytes(100)):
        assert len(load_audio(data, 30)) == pytest.approx(SAMPLE_RATE, abs=1200)
        assert length(data) == pytest.approx(1.0, abs=0.08)
    for data in (ogg[:-9], mp4[:-9]):
        with pytest.raises(AudioError, match="truncated"):
            length(data)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")],
)
@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_lengths_agree_with_ffmpeg(kind, subtype, rate):
    data = sound_bytes(tone(1.3, rate), rate, kind, subtype)
    with av.open(io.BytesIO(data)) as opened:
        stream = opened.streams.audio[0]
        seconds = sum(it.samples for it in opened.decode(stream)) / stream.rate
    assert len(load_audio(data, 30)) / SAMPLE_RATE == pytest.approx(seconds, abs=0.08)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wav_of_unknown_size_is_read_to_its_end(size, tmp_path):
    data = bytearray(sound_bytes(tone(1.0), SAMPLE_RATE))
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    data[4:8] = (size + 36 & 0xFFFFFFFF).to_bytes(4, "little")
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    for audio in (bytes(data), path):
        assert len(load_audio(audio, 30)) == SAMPLE_RATE
        with pytest.raises(AudioError, match="too long"):
            load_audio(audio, 0.5)


def test_an_empty_wav_with_more_chunks_stays_empty():
    data = sound_bytes(tone(0), SAMPLE_RATE)
    assert len(load_audio(data + b"LIST\x04\x00\x00\x00INFO", 30)) == 0


def test_a_video_without_sound_says_so():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for packet in [*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(AudioError) as caught:
        load_audio(file.getvalue(), 30)
    assert caught.value.reason == "no sound in the file"


@pytest.mark.parametrize("other", [-1.0, -0.9, 0.0])
def test_channels_that_cancel_are_not_averaged_to_silence(other):
    one = tone(1.0)
    samples = load_audio(sound_bytes(np.stack([one, other * one], axis=1), SAMPLE_RATE), 30)
    assert np.abs(samples).max() == pytest.approx(0.15 if other == 0 else 0.3, abs=0.01)


def test_the_only_loud_channel_of_six_is_heard():
    channels = np.zeros((SAMPLE_RATE, 6), np.float32)
    channels[:, 2] = tone(1.0)
    samples = load_audio(sound_bytes(channels, SAMPLE_RATE), 30)
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.01)


def test_float_samples_beyond_full_scale_keep_their_shape():
    loud = tone(1.0) * 32768
    samples = load_audio(sound_bytes(loud, SAMPLE_RATE, "WAV", "FLOAT"), 30)
    assert samples == pytest.approx(tone(1.0) / 0.3, abs=0.01)


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
        with pytest.raises(AudioError, match="not audio"):
            load_audio(path, 30)


def test_samples_that_are_no_numbers_are_unreadable():
    samples = tone(1.0)
    samples[100] = np.nan
    with pytest.raises(AudioError, match="not numbers"):
        load_audio(sound_bytes(samples, SAMPLE_RATE, "WAV", "FLOAT"), 30)


def test_a_flac_that_does_not_know_its_length_is_read_all_the_same():
    data = bytearray(sound_bytes(tone(1.0), SAMPLE_RATE, "FLAC"))
    data[21] &= 0xF0  # the last 36 bits before the checksum: total samples, 0 for unknown
    data[22:26] = bytes(4)
    assert len(load_audio(bytes(data), 30)) == SAMPLE_RATE
    with pytest.raises(AudioError, match=r"over 0\.5 s"):
        load_audio(bytes(data), 0.5)


def test_an_empty_recording_has_no_samples():
    assert len(load_audio(sound_bytes(tone(0), 48_000), 30)) == 0


def test_a_sphere_file_that_is_cut_off_is_truncated():
    data = sound_bytes(tone(1.0), SAMPLE_RATE, "NIST")
    assert len(load_audio(data, 30)) == SAMPLE_RATE
    with pytest.raises(AudioError, match=r"truncated: 0\.4\d s of 1\.00 s"):
        load_audio(data[: len(data) // 2], 30)
