"""`delivered` is what a user of the model measures without lorajob."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2
import jiwer
import pytest
from faster_whisper import WhisperModel

from lorajob.decoding import delivered
from lorajob.decoding.delivered import (
    Placement,
    listen,
    load_for_users,
    placement_warnings,
)
from lorajob.decoding.fast import Sound
from lorajob.job.report import Report
from lorajob.speech.audio import Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.text import normalise
from lorajob.stage import run_stage
from lorajob.whisper import ct2
from tests.support.speech import tone
from tests.support.tiny import make_job
from tests.support.training import SHORT

# An untrained model trips every threshold, so that one clip takes seconds.
SETS = ("evaluate.delivered_clips=1", "convert.check_clips=1")


def test_delivered_is_what_twenty_lines_with_faster_whisper_and_jiwer_give(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, tiny_whisper, *SHORT, "train.epochs=1", *SETS, clips=4)
    for stage in ("train", "evaluate", "convert"):
        run_stage(stage, job, 1, Report(stage))
    test = ClipStore(job.stage_dir("preprocess") / "test")
    lines = (job.stage_dir("evaluate") / "utterances.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "delivered" in row]

    ctranslate2.set_random_seed(0)
    model = WhisperModel(str(job.stage_dir("convert") / "model"))
    said, heard = [], []
    for row in rows:
        place = test.ids.index(row["id"])
        segments, _ = model.transcribe(test.audio(place), language="hi")
        heard.append(normalise(" ".join(segment.text.strip() for segment in segments), "hi"))
        said.append(normalise(test.texts[place], "hi"))

    result = job.result("evaluate")
    assert result is not None and result.delivered is not None
    assert result.delivered.wer == pytest.approx(100 * jiwer.wer(said, heard))
    assert result.delivered.cer == pytest.approx(100 * jiwer.cer(said, heard))
    assert result.delivered.clips == result.base.clips == 1 and result.tuned.clips == 4
    assert job.result("convert").converted == result.delivered


NO_MEMORY = "CUDA failed with error out of memory"
NO_LIBRARY = "Library libcublas.so.12 is not found or cannot be loaded"


@pytest.mark.parametrize(
    ("fits", "fault", "tried", "warning"),
    [
        ("default", "", ["default"], None),
        ("float16", NO_MEMORY, ["default", "float16"], None),
        ("int8_float16", NO_MEMORY, ["default", "float16", "int8_float16"], None),
        ("", NO_MEMORY, ["default", "float16", "int8_float16"], "use a GPU with more free memory"),
        ("", NO_LIBRARY, ["default"], "install 'lorajob[cuda]'"),
    ],
)
@pytest.mark.parametrize("raises", ["loading", "encoding"])
def test_out_of_memory_on_a_gpu_is_told_from_missing_libraries(
    tiny_whisper: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raises: str,
    fits: str,
    fault: str,
    tried: list[str],
    warning: str | None,
) -> None:
    ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    on_gpu: list[str] = []

    class OnGpu(delivered.UsersModel):
        """Takes the GPU's place with the CPU, for the types that fit."""

        def __init__(self, folder: str, device: str, **options: Any) -> None:
            self.kind = ""
            if device == "cuda":
                self.kind = options["compute_type"]
                on_gpu.append(self.kind)
                self.check("loading")
            super().__init__(folder, device="cpu")

        def check(self, moment: str) -> None:
            if self.kind and self.kind != fits and moment == raises:
                raise RuntimeError(fault)

        def encode(self, features: Any) -> ctranslate2.StorageView:
            self.check("encoding")
            return super().encode(features)

    monkeypatch.setattr(delivered, "UsersModel", OnGpu)
    monkeypatch.setattr(delivered, "load_cuda_libraries", list)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    loaded = load_for_users(tmp_path / "model")
    assert on_gpu == tried
    assert loaded.kind == fits  # type: ignore[attr-defined]
    usual, place = Placement("cuda"), loaded.placement
    assert place.device == ("cuda" if fits else "cpu")
    found = placement_warnings({"base": [usual], "delivered": [place], "gate": [place, usual]})
    if fits == "default":
        assert found == []
    elif fits:
        assert found == [
            f"delivered and gate were decoded in {fits}, because the delivered type does not fit "
            "the GPU"
        ]
    else:
        assert len(found) == 1 and warning is not None and warning in found[0]
        assert found[0].startswith("delivered and gate were decoded on the CPU, because ")
    alone = placement_warnings({"base": [place], "delivered": [usual], "gate": []})
    assert [it.split(" decoded ")[0] for it in alone] == ["base was"] * len(found)


def test_the_fault_of_a_gpu_says_what_to_do(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    monkeypatch.setattr(delivered, "expects_gpu", lambda: False)
    assert load_for_users(model).placement == Placement("cpu")
    monkeypatch.setattr(delivered, "expects_gpu", lambda: True)
    place = load_for_users(model).placement
    assert placement_warnings({"base": [place], "delivered": [place], "gate": [place]}) == [
        "base, delivered and gate were decoded on the CPU, because CTranslate2 sees no GPU: "
        "update its driver on this machine"
    ]
    fault = RuntimeError("CUDA driver version is\n insufficient")

    def fail(load: Any, kind: str) -> None:
        raise fault

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(delivered, "load_cuda_libraries", list)
    monkeypatch.setattr(delivered, "load_fitting", fail)
    assert "(CUDA driver version is insufficient): install" in load_for_users(model).placement.fault
    monkeypatch.setattr(delivered, "load_cuda_libraries", lambda: ["libcudnn.so.9"])
    assert "lacks libcudnn.so.9 for the GPU: install" in load_for_users(model).placement.fault


def test_the_time_is_that_of_transcribing_alone(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ct2.convert(tiny_whisper, tmp_path / "model", "float32")
    clock, encoded = [0.0], []
    hash_sound = delivered.sound_hash

    class Timed(delivered.UsersModel):
        def __init__(self, *args: Any, **options: Any) -> None:
            clock[0] += 1000
            super().__init__(*args, **options)

        def encode(self, features: Any) -> ctranslate2.StorageView:
            clock[0] += 1
            encoded.append(features)
            return super().encode(features)

    def read() -> Samples:
        clock[0] += 1000
        return tone(1.0)

    def hashed(sound: Samples) -> str:
        clock[0] += 1000
        return hash_sound(sound)

    monkeypatch.setattr(delivered, "UsersModel", Timed)
    monkeypatch.setattr(delivered, "sound_hash", hashed)
    monkeypatch.setattr(delivered, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    heard = listen(model, "hi", [Sound(1.0, read)])
    assert heard.seconds == len(encoded) >= 1 and heard.clips[0].sound
