"""The fast decoder: its limits, its features, Whisper's fallback, and what it may know."""

import ast
import inspect
import json
import re
import subprocess
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
from faster_whisper.audio import pad_or_trim
from faster_whisper.feature_extractor import FeatureExtractor

from lorajob import decoding, transcribe
from lorajob.book import job_text, text_weights
from lorajob.book.decode import Book, decode_with_book
from lorajob.decoding import delivered, fast, long_form, paired, torch_engine, windows
from lorajob.decoding.config import (
    DecodeConfig,
    TokenLimits,
    read_config,
    token_limits,
    write_config,
)
from lorajob.decoding.fallback import Transcript, best, emptied_if_silent, trips
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.errors import ModelError
from lorajob.whisper import ct2
from lorajob.whisper.tokens import Labels

HINDI = DecodeConfig(language="hi")
LOOP = "हाँ हाँ " * 40


def heard(text: str = "नमस्ते", mean: float = -0.2, silent: float = 0.0) -> Transcript:
    return Transcript(text, 3, mean, silent, 0.0)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))
    return samples.astype(np.float32)


def test_limits_follow_the_usual_training_clip_and_not_a_wrong_one() -> None:
    tokens, seconds = [20] * 50, [4.0] * 50
    usual = token_limits(tokens, seconds)
    assert usual == TokenLimits(tokens_a_second=7.5, tokens=38, seconds=4.0)
    planted = token_limits([*tokens, 444], [*seconds, 1.0])
    assert planted.tokens_a_second <= 1.5 * 3 * 5 and planted.tokens <= 1.5 * 3 * 20 + 8
    assert token_limits([], []) == TokenLimits()


def test_a_limit_holds_for_lengths_that_training_had_and_grows_beyond_them() -> None:
    limits = TokenLimits(tokens_a_second=10, tokens=40, seconds=5)
    assert [limits.of(1), limits.of(5), limits.of(20), limits.of(30)] == [18, 40, 208, 308]
    assert TokenLimits(tokens_a_second=100).of(30) == 224
    assert TokenLimits(tokens_a_second=100, seconds=5).of(30) == 444


def test_settings_travel_beside_the_model(tmp_path: Path) -> None:
    assert read_config(tmp_path) is None
    ours = DecodeConfig(language="hi", cut=True, limits=TokenLimits(tokens=99), seed=3)
    write_config(tmp_path, ours)
    assert read_config(tmp_path) == ours
    path = tmp_path / "lorajob.json"
    values = json.loads(path.read_text())
    # A later version may add settings to the same format.
    values["decoding"]["new"] = 1
    path.write_text(json.dumps(values))
    assert read_config(tmp_path) == ours
    path.write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(ModelError, match="newer lorajob"):
        read_config(tmp_path)
    for damaged in ("", "[]", "{}", '{"format": 1, "decoding": {"language": 3}}'):
        path.write_text(damaged)
        with pytest.raises(ModelError, match=r"lorajob\.json: damaged"):
            read_config(tmp_path)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 4.567, 29.99, 30.0])
@pytest.mark.parametrize("bins", [80, 128])
def test_padded_windows_are_those_of_faster_whisper(seconds: float, bins: int) -> None:
    samples = noise(seconds)
    ours = windows.features(windows.extractor(bins), [samples], cut=False)[0]
    # As WhisperModel.transcribe and generate_segments do.
    theirs = FeatureExtractor(feature_size=bins)(samples)
    content = theirs.shape[-1] - 1
    segment = pad_or_trim(theirs[:, : min(3000, content)])
    assert np.array_equal(ours, segment)


def test_cut_windows_end_half_a_second_behind_the_longest_clip() -> None:
    made = windows.features(windows.extractor(80), [noise(1.0), noise(2.0)], cut=True)
    assert made.shape == (2, 80, 250)


@pytest.mark.parametrize(
    ("it", "again", "text"),
    [
        (heard(), False, "नमस्ते"),
        (heard(LOOP), True, LOOP),
        (heard(mean=-1.1), True, "नमस्ते"),
        (heard(mean=-1.1, silent=0.7), False, ""),
        (heard(LOOP, mean=-1.1, silent=0.7), False, ""),
        (heard(mean=-0.9, silent=0.7), False, "नमस्ते"),
        (heard(""), False, ""),
    ],
)
def test_a_transcript_is_decoded_again_by_whispers_rules(
    it: Transcript, again: bool, text: str
) -> None:
    assert trips(it, HINDI) == again
    assert emptied_if_silent(it, HINDI).text == text


def test_when_every_temperature_fails_the_most_probable_fluent_text_is_taken() -> None:
    loop, low, lower = heard(LOOP, -0.1), heard("a", -1.5), heard("b", -1.8)
    assert best([loop, lower, low], HINDI) == low
    assert best([loop, heard(LOOP, -0.5)], HINDI) == loop


def test_text_cut_at_a_limit_ends_at_a_whole_character(whisper_base: Path) -> None:
    labels = Labels(whisper_base, "hi")
    text = "ഞാൻ ഒരു ചെറിയ കഥ 😀 പറയാം"
    ids = labels.encode(text)
    for count in range(len(ids) + 1):
        cut = labels.decode(ids[:count])
        assert "\N{REPLACEMENT CHARACTER}" not in cut
        assert text.startswith(cut)
    assert labels.decode(ids) == text


@pytest.fixture(scope="module")
def model(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ct2.convert(tiny_whisper, tmp_path_factory.mktemp("model") / "model", "float32")


def test_only_clips_that_trip_are_decoded_again_and_the_same_every_time(model: Path) -> None:
    sounds = [Sound.of(noise(seconds, 1)) for seconds in (1.0, 2.0, 1.5, 0.7)]
    once = DecodeConfig(language="hi", cut=True, temperatures=(0.0,), no_speech=None)
    first = FastDecoder(model, once).decode(sounds)
    low = sorted(it.log_probability for it in first)
    assert low[1] < low[2]
    middle = (low[1] + low[2]) / 2
    changes = {"temperatures": (0.0, 0.5), "compression_ratio": None, "log_probability": middle}
    decoder = FastDecoder(model, once.model_copy(update=changes | {"no_speech": 2.0}))
    again = decoder.decode(sounds)
    for before, after in zip(first, again, strict=True):
        if before.log_probability >= middle:
            assert after == before
        else:
            assert after.log_probability > before.log_probability or after == before
    # A second call does not continue the random sequence of the first.
    assert decoder.decode(sounds) == again


def test_an_untrained_model_stops_at_the_limit_of_each_clip(model: Path) -> None:
    limits = TokenLimits(tokens_a_second=5, tokens=20, seconds=30)
    once = DecodeConfig(language="hi", limits=limits, temperatures=(0.0,), no_speech=None)
    sounds = [Sound.of(noise(seconds)) for seconds in (1.0, 2.0)]
    assert [it.tokens for it in FastDecoder(model, once).decode(sounds)] == [13, 18]


def test_windows_encoded_one_at_a_time_are_those_of_a_batch(model: Path) -> None:
    decoder = FastDecoder(model, HINDI)
    mel = decoder.mel([noise(seconds, 1) for seconds in (1.0, 2.0, 1.5)])
    batch = np.array(decoder.engine.encode(ctranslate2.StorageView.from_array(mel), to_cpu=True))
    encoded = np.array(decoder.encode(mel))
    assert encoded.shape == batch.shape and len(encoded) == 3
    np.testing.assert_allclose(encoded, batch, atol=1e-4)


def without_cuda_libraries(*args: object, device: str = "cpu", **options: object) -> None:
    assert device == "cuda"
    raise RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")


def test_pytorch_decodes_as_ctranslate2_where_that_lacks_libraries(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = [Sound.of(noise(seconds, 1)) for seconds in (1.0, 2.0, 1.5)]
    limits = TokenLimits(tokens_a_second=20, tokens=60)
    once = DecodeConfig(language="hi", cut=True, limits=limits, temperatures=(0.0,), no_speech=None)
    expected = FastDecoder(model, once).decode(sounds)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(ctranslate2.models, "Whisper", without_cuda_libraries)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load = torch_engine.load_engine
    monkeypatch.setattr(torch_engine, "load_engine", lambda *given: load(*given[:2], "cpu"))
    decoder = FastDecoder(model, once)
    batches: list[int] = []
    generate = torch_engine.TorchEngine.generate

    def noted(self: Any, features: Any, *given: Any) -> Any:
        batches.append(len(features))
        return generate(self, features, *given)

    monkeypatch.setattr(torch_engine.TorchEngine, "generate", noted)
    found = decoder.decode(sounds, batch_windows=1)
    assert batches == [3]  # up to 64 windows: a step takes a GPU as long for one
    assert [(it.text, it.tokens) for it in found] == [(it.text, it.tokens) for it in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-3)
        assert ours.no_speech == pytest.approx(theirs.no_speech, abs=1e-4)
    # A second call samples as the first.
    changes = {"temperatures": (0.0, 0.8), "compression_ratio": None, "log_probability": -0.01}
    decoder.config = once.model_copy(update=changes)
    again = decoder.decode(sounds)
    assert {it.temperature for it in again} <= {0.0, 0.8} and again == decoder.decode(sounds)


def test_the_cpu_decodes_where_no_library_can_use_the_gpu(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ctranslate2.models.Whisper

    def whisper(*args: object, **options: object) -> object:
        if options["device"] == "cuda":
            without_cuda_libraries(*args, **options)
        return real(*args, **options)

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(ctranslate2.models, "Whisper", whisper)
    assert FastDecoder(model, HINDI).decode([]) == []
    assert "so the CPU decodes" in caplog.text and "libcublas" in caplog.text


class Small:
    """A model that decodes at most two windows at a time."""

    def __init__(self, model: Any, most: int) -> None:
        self._model, self._most = model, most
        self.sizes: list[int] = []
        self.device, self.encode = model.device, model.encode

    def generate(self, features: Any, prompts: Any, **options: Any) -> Any:
        self.sizes.append(len(prompts))
        if len(prompts) > self._most:
            return [fast._Failed(RuntimeError("CUDA failed with error out of memory"))] * len(
                prompts
            )
        return self._model.generate(features, prompts, **options)


def test_out_of_memory_halves_the_batch(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    sounds = [Sound.of(noise(seconds, 1)) for seconds in (1.0, 2.0, 1.5, 0.7, 0.9)]
    once = DecodeConfig(language="hi", temperatures=(0.0,), no_speech=None)
    decoder = FastDecoder(model, once)
    expected = [it.text for it in decoder.decode(sounds)]
    small = decoder._model = Small(decoder._model, 2)
    assert [it.text for it in decoder.decode(sounds)] == expected
    assert small.sizes == [5, 2, 3, 1, 2]
    assert "out of memory" in caplog.text
    decoder._model = Small(small, 0)
    with pytest.raises(ModelError, match="out of memory while decoding one window"):
        decoder.decode(sounds[:1])


def test_a_type_that_does_not_fit_the_gpu_is_replaced_by_a_smaller_one(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ctranslate2.models.Whisper
    tried = []

    def whisper(folder: str, device: str, compute_type: str, **options: object) -> object:
        tried.append(compute_type)
        if compute_type == "float32":
            raise RuntimeError("CUDA failed with error out of memory")
        return real(folder, device="cpu")

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(ctranslate2.models, "Whisper", whisper)
    FastDecoder(model, HINDI, "float32")
    assert tried == ["float32", "float16"]
    assert "float32 does not fit the GPU; float16 is used" in caplog.text


def test_many_clips_are_forecast_and_decoded_on_all_gpus(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ctranslate2.models.Whisper
    loaded = []

    def whisper(folder: str, device_index: list[int], **options: object) -> object:
        assert options["device"] == "cuda"
        loaded.append(device_index)
        return real(folder, device="cpu", inter_threads=len(device_index), intra_threads=1)

    sounds = [Sound.of(noise(seconds, 1)) for seconds in (1.0, 2.0, 1.5, 0.7)]
    limits = TokenLimits(tokens_a_second=5, tokens=20, seconds=30)
    once = DecodeConfig(language="hi", limits=limits, temperatures=(0.0,), no_speech=None)
    expected = fast.decode(model, once, sounds)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 2)
    monkeypatch.setattr(ctranslate2.models, "Whisper", whisper)
    told: list[tuple[float, int]] = []
    monkeypatch.setattr(fast, "CLIPS_TO_FORECAST", 4)
    monkeypatch.setattr(fast, "MOST_READERS", 3)
    monkeypatch.setattr(fast, "threads_a_stage", lambda: 8)
    readers = set()
    read = FastDecoder.mel

    def mel(self: FastDecoder, clips: Any) -> Any:
        readers.add(threading.current_thread().name)
        return read(self, clips)

    monkeypatch.setattr(FastDecoder, "mel", mel)
    found = fast.decode(model, once, sounds, 1, ahead=lambda *given: told.append(given))
    assert found == expected
    assert loaded == [[0, 1]]
    # Threads compute the features, in which one thread is slower than a GPU.
    assert readers and all(name.startswith("features") for name in readers)
    ((seconds, workers),) = told
    assert seconds > 0 and workers == 2
    # A server and `transcribe` take one. So does sampling, which has to be the same each time.
    FastDecoder(model, once)
    assert loaded[1:] == [[0]]


HOLDS_REFERENCES = ("clipstore", "scoring", "corpora", "jiwer", "evaluate", "datasets")
# They hear with what decodes, and then choose weights by held-back clips, or count errors.
SCORING = {"job_text", "text_weights", "trial"}
SOURCES = Path(decoding.__file__).parent.parent
DECODES = [
    *(SOURCES / "decoding").glob("*.py"),
    *(it for it in (SOURCES / "book").glob("*.py") if it.stem not in SCORING),
    SOURCES / "transcribe.py",
]
TAKES_SOUND = (
    FastDecoder.__init__,
    FastDecoder.decode,
    fast.decode,
    windows.features,
    delivered.listen,
    paired.hear_both,
    decode_with_book,
    text_weights.hear,
    transcribe.transcribe,
    transcribe.transcribe_files,
    long_form.transcribe_long,
)
SAYS_REFERENCE = re.compile("text|said|reference|store")


@pytest.mark.parametrize("path", DECODES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_decodes_imports_nothing_that_holds_references(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        assert not [it for it in names if any(word in it for word in HOLDS_REFERENCES)]


@pytest.mark.parametrize("function", TAKES_SOUND, ids=lambda it: it.__qualname__)
def test_what_decodes_is_given_no_reference(function: Callable[..., object]) -> None:
    hints = typing.get_type_hints(function)
    for name in inspect.signature(function).parameters:
        assert "ClipStore" not in str(hints.get(name, ""))
        assert not SAYS_REFERENCE.search(name)


def test_what_is_given_to_decoders_has_no_room_for_references() -> None:
    assert {*Sound.__dataclass_fields__} == {"seconds", "read"}
    assert {*Book.__dataclass_fields__} == {"language", "index"}
    # `identity` is part of a key of the cache; `of_base` is some of `sounds`.
    fields = {"sounds", "identity", "language", "seed", "seconds", "base_clips", "one_by_one"}
    assert {*paired.Clips.__dataclass_fields__} == fields


def test_a_model_of_text_has_no_sentence_of_the_clips_that_are_scored(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("Said in the test!\nnew\nsaid in the  test\n", "utf-8")
    lines = job_text._Lines(
        tmp_path / "lines",
        ["trained", "trained", "said in the test"],
        {"said in the test"},
        "en",
        lambda what: None,
    )
    assert list(lines) == ["trained", "new"]
    assert lines.left_out == 2


def test_the_fast_decoder_loads_no_torch() -> None:
    code = "import sys, lorajob.decoding.fast; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
