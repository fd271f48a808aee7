"""A GPU's driver that hangs, or counts its cards in another order."""

import subprocess
import time

import pytest

from lorajob.cli.service_checks import check_gpus
from lorajob.errors import ServiceError
from lorajob.worker import gpus
from lorajob.worker.gpus import pins
from tests.test_gpus import A100, L4, driver, fake_driver, visible

__all__ = ["driver"]


def test_a_driver_that_hangs_or_has_no_card_is_said(driver, monkeypatch, tmp_path, caplog):
    (driver / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 0.2)
    for asked in ("auto", "all", "0"):
        with pytest.raises(ServiceError, match="does not answer within"):
            pins(asked)
    assert visible("none") == [""]
    (finding,) = check_gpus()
    assert finding.state == "fail" and "does not answer" in finding.text
    (driver / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 20)
    assert visible("auto") == [None]
    assert "nvidia-smi tells of no GPU" in caplog.text


def test_a_driver_that_lets_no_process_go_is_not_waited_for(driver, monkeypatch):
    """As one that hangs in the kernel: what asks it, SIGKILL does not end."""
    (driver / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(gpus, "KILL_SECONDS", 0.1)
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda process: None)
        for _ in range(2):
            with pytest.raises(ServiceError, match="does not answer within"):
                pins("auto")
    assert time.monotonic() - began < 30
    (process,) = gpus.hung  # the second question was not put
    process.kill()
    process.wait(timeout=10)
    fake_driver(driver)
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 20)
    assert visible("auto") == [L4, A100]


def test_numbers_mean_the_same_to_cuda_and_to_nvidia_smi(driver):
    """CUDA by itself counts from the fastest card on."""
    assert pins("1")[0].environment() == {
        "CUDA_VISIBLE_DEVICES": A100, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"
    }  # fmt: skip
    assert pins("all")[0].environment() == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
