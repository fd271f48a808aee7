"""A driver of NVIDIA's that gives recorded answers."""

from pathlib import Path

import pytest

from lorajob.worker.machine.gpus import pins

TABLE = """\
0, GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, NVIDIA L4, 23034, 22000
1, GPU-8f6ac51e-0b1c-7f4e-1d55-0c9f0f0f8a11, NVIDIA A100 80GB PCIe, 81920, 81000
"""
CARDS = """\
GPU 0: NVIDIA L4 (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA A100 80GB PCIe (UUID: GPU-8f6ac51e-0b1c-7f4e-1d55-0c9f0f0f8a11)
"""
PARTS = """\
  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.10gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
"""
L4, A100 = (line.rpartition("UUID: ")[2].strip(")") for line in CARDS.splitlines())
LARGE, SMALL = (line.rpartition("UUID: ")[2].strip(")") for line in PARTS.splitlines())


def fake_driver(folder: Path, listing: str = CARDS) -> Path:
    """A folder for PATH whose nvidia-smi gives the recorded answers."""
    folder.mkdir(exist_ok=True)
    (folder / "list").write_text(listing)
    (folder / "table").write_text(TABLE)
    command = folder / "nvidia-smi"
    command.write_text(
        f'#!/bin/sh\nif [ "$1" = -L ]; then cat {folder}/list; else cat {folder}/table; fi\n'
    )
    command.chmod(0o755)
    return folder


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = fake_driver(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder


def visible(asked: str) -> list[str | None]:
    return [pin.visible for pin in pins(asked)]
