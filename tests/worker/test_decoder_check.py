"""CTranslate2 is tried on each GPU, and what is wrong is told in one line."""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import ctranslate2
import pytest

from lorajob.cli import service_checks
from lorajob.whisper import decoder_check_main
from lorajob.whisper.cuda_libraries import expects_gpu
from lorajob.worker.machine import decoder_check, self_check
from lorajob.worker.machine.decoder_check import DecoderCheck, check_decoders
from lorajob.worker.machine.gpus import Gpu, Pin

LACKS = "Library libcublas.so.12 is not found or cannot be loaded"
CARD = Gpu("0", "GPU-a", "T4", 16_000, 15_000)


def python(code: str) -> Sequence[str]:
    return (sys.executable, "-c", code)


def test_a_tiny_model_is_encoded_and_decoded_on_each_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, asked = ctranslate2.models.Whisper, []

    def whisper(folder: str, device: str, device_index: int) -> Any:
        asked.append((device, device_index))
        if device_index == 1:
            raise RuntimeError(f"{LACKS}\n")
        return real(folder, device="cpu")

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 2)
    monkeypatch.setattr(ctranslate2.models, "Whisper", whisper)
    monkeypatch.setattr(decoder_check_main, "load_cuda_libraries", lambda: ["libcublas.so.12"])
    decoder_check_main.main()
    assert asked == [("cuda", 0), ("cuda", 1)]
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == {"gpu": 0, "error": "", "missing": ["libcublas.so.12"]}
    assert second == {"gpu": 1, "error": LACKS, "missing": ["libcublas.so.12"]}


def test_a_check_that_ends_or_hangs_counts_as_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"gpu": 0, "error": "", "missing": []})
    dies = f"import sys; print({line!r}); sys.exit('cuDNN: version mismatch')"
    assert check_decoders(command=python(dies)) == [
        DecoderCheck(0),
        DecoderCheck(1, "cuDNN: version mismatch"),
    ]
    killed = "import os; os.kill(os.getpid(), 9)"
    assert check_decoders(command=python(killed)) == [DecoderCheck(0, "the check ended with -9")]
    (absent,) = check_decoders(command=("/nonexistent/python",))
    assert "cannot be started" in absent.error
    hangs = "import time; time.sleep(3600)"
    assert check_decoders(lambda: True, python(hangs)) == []
    monkeypatch.setattr(decoder_check, "CHECK_SECONDS", 0.0)
    assert check_decoders(command=python(hangs)) == [DecoderCheck(0, "no answer within 0 s")]


class Blocked:
    """A process in a driver that hangs: it has checked one GPU, and a kill does not end it."""

    returncode = None
    kills = 0

    def __init__(self, *command: object, **options: object) -> None:
        pass

    def kill(self) -> None:
        self.kills += 1
        assert self.kills == 1

    def communicate(self, timeout: float) -> NoReturn:
        line = json.dumps({"gpu": 0, "error": "", "missing": []})
        raise subprocess.TimeoutExpired("check", timeout, f"{line}\n".encode())


def test_a_check_that_no_kill_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_check, "CHECK_SECONDS", -1.0)
    monkeypatch.setattr(self_check, "PROBE_SECONDS", -1.0)
    monkeypatch.setattr(subprocess, "Popen", Blocked)
    assert check_decoders() == [DecoderCheck(0), DecoderCheck(1, "no answer within -1 s")]
    assert check_decoders(lambda: True) == [DecoderCheck(0)]
    assert self_check._computes() == "the GPU does not compute: no answer within -1 s"


def test_a_card_that_does_not_compute_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "PROBE", "raise SystemExit('CUDA error: ECC')")
    assert self_check._computes() == "the GPU does not compute: CUDA error: ECC"
    monkeypatch.setattr(self_check, "PROBE", "raise SystemExit(3)")
    assert self_check._computes() == "the GPU does not compute: its program ended with 3"
    monkeypatch.setattr(self_check, "PROBE", "")
    assert self_check._computes() is None


def test_what_a_library_writes_is_no_result() -> None:
    line = json.dumps({"gpu": 0, "error": "", "missing": []})
    noise = "import sys; write = sys.stdout.buffer.write; write(b'{\\xff}\\n{}\\n[1]\\n')"
    assert check_decoders(command=python(f"{noise}; print({line!r})")) == [DecoderCheck(0)]
    dies = "import sys; sys.stderr.buffer.write(b'caf\\xe9\\n'); sys.exit(3)"
    assert check_decoders(command=python(dies)) == [DecoderCheck(0, "caf\N{REPLACEMENT CHARACTER}")]


def test_doctor_says_what_to_install_for_each_gpu() -> None:
    assert list(service_checks.check_decoder([], lambda: [DecoderCheck(0, "unasked")])) == []
    found = [DecoderCheck(0), DecoderCheck(1, LACKS, ("libcublas.so.12",))]
    well, ill = service_checks.check_decoder([CARD], lambda: found)
    assert (well.state, well.text) == ("ok", "CTranslate2 decodes on GPU 0")
    assert ill.state == "warn"
    assert ill.text == (f"CTranslate2 cannot decode on GPU 1: {LACKS}; not found: libcublas.so.12")
    assert ill.advice.startswith("pip install 'lorajob[cuda]'; until then PyTorch decodes")
    (blind,) = service_checks.check_decoder([CARD], list)
    assert (blind.state, blind.text) == ("warn", "CTranslate2 sees no GPU")


def test_a_worker_tries_its_gpus_once_at_its_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def check(stopped: object) -> list[DecoderCheck]:
        tried.append(stopped)
        return [DecoderCheck(0), DecoderCheck(1, LACKS)]

    monkeypatch.setattr(decoder_check, "check_decoders", check)
    monkeypatch.setattr(decoder_check, "devices", list)
    ticker = decoder_check.decoder_check()
    assert ticker.turn() is False and not tried  # no GPU, no cost
    monkeypatch.setattr(decoder_check, "devices", lambda: [Pin("GPU-a"), Pin("GPU-b")])
    modes = "Default\nExclusive_Process\n"
    monkeypatch.setattr(decoder_check, "ask_nvidia_smi", lambda *options: modes)
    with caplog.at_level(logging.INFO):
        assert ticker.turn() is False and not tried  # a job may need the only process
        modes = "Default\nDefault\n"
        assert ticker.turn() is False
    assert len(tried) == 1
    assert [(it.levelname, it.message) for it in caplog.records] == [
        ("INFO", "CTranslate2 is not tried on GPUs in an exclusive compute mode"),
        ("INFO", "CTranslate2 decodes on GPU 0"),
        (
            "WARNING",
            f"CTranslate2 cannot decode on GPU 1: {LACKS}; PyTorch decodes instead: pip install "
            "'lorajob[cuda]'",
        ),
    ]


def test_a_gpu_is_expected_if_its_device_file_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert not expects_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert expects_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not expects_gpu(tmp_path)
