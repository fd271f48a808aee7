"""A GPU's driver that hangs, or counts its cards in another order."""

import subprocess
import sys
import time

import pytest

from lorajob.cli.service_checks import check_gpus
from lorajob.errors import ServiceError
from lorajob.worker.machine import gpus
from lorajob.worker.machine.gpus import devices, pins
from lorajob.worker.stack.services import worker_service, worker_services
from tests.support.command import environment
from tests.support.gpus import A100, L4, fake_driver, visible
from tests.support.service import settings_for


def test_a_driver_that_hangs_or_has_no_card_is_said(driver, monkeypatch, tmp_path, caplog):
    (driver / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 600\n")
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
    assert "nvidia-smi lists no GPU" in caplog.text


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
    assert time.monotonic() - began < 120
    (process,) = gpus.hung  # the second question was not put
    process.kill()
    process.wait(timeout=240)
    fake_driver(driver)
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 20)
    assert visible("auto") == [L4, A100]


UP = """
import sys
from lorajob.worker.machine import gpus
from lorajob.worker.stack.stack import main

gpus.TIMEOUT_SECONDS = 0.2
sys.exit(main())
"""


def test_no_stack_comes_up_on_a_driver_that_hangs(driver, tmp_path):
    (driver / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    home = tmp_path / "home"
    command = [sys.executable, "-c", UP, "--no-flower", "--no-web"]
    done = subprocess.run(
        command, env=environment(home=home), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1
    assert "does not answer within" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list((home / "log").iterdir())  # nothing was started


def test_a_driver_that_hangs_is_not_asked_where_no_card_is_visible(driver, monkeypatch):
    (driver / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(gpus, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []
    assert [finding.state for finding in check_gpus()] == ["warn"]


def test_the_stages_of_a_stack_share_the_cores_beside_a_gpu(tmp_path):
    settings = settings_for(tmp_path, "redis://localhost")
    for given, has_gpu, shares in ((1, True, "2"), (1, False, "1"), (4, True, "4")):
        chosen = settings.model_copy(update={"stages_here": given})
        workers = worker_services(chosen, has_gpu)
        assert [it.name for it in workers] == ["cpu worker", "gpu worker"]
        assert [it.env["LORAJOB_STAGES_HERE"] for it in workers] == [shares, shares]


def test_numbers_mean_the_same_to_cuda_and_to_nvidia_smi(driver, tmp_path):
    """CUDA by itself counts from the fastest card on."""
    assert pins("1")[0].environment() == {
        "CUDA_VISIBLE_DEVICES": A100, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"
    }  # fmt: skip
    assert pins("all")[0].environment() == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    of_the_stack = worker_service(settings_for(tmp_path, "redis://localhost"), "gpu")
    assert of_the_stack.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
