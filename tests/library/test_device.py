"""What a training sets and chooses by the device that it finds."""

import os
from types import SimpleNamespace

import pytest
import torch

from lorajob.training.device import ALLOCATOR, loader_workers, set_up_cuda, usual_clips


@pytest.mark.parametrize(
    ("card", "multiprocessors", "clips"),
    [("T4", 40, 16), ("L4", 58, 32), ("A10", 72, 32), ("A100", 108, 64), ("H100", 132, 64)],
)
def test_a_larger_card_takes_more_clips_a_step_and_several_as_many_each(
    monkeypatch: pytest.MonkeyPatch, card: str, multiprocessors: int, clips: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = SimpleNamespace(multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    assert usual_clips() == clips
    assert usual_clips(8) == 8 * clips


def test_float32_products_on_a_gpu_take_tf32_and_memory_grows_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ALLOCATOR, raising=False)
    set_up_cuda()
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert os.environ[ALLOCATOR] == "expandable_segments:True"
    monkeypatch.setenv(ALLOCATOR, "max_split_size_mb:64")  # the user's own choice
    set_up_cuda()
    assert os.environ[ALLOCATOR] == "max_split_size_mb:64"


def test_readers_share_the_cores_among_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorajob.training.device.threads_a_stage", lambda: 16)
    assert loader_workers(None, torch.device("cuda"), 1) == 8
    assert loader_workers(None, torch.device("cuda"), 4) == 3
    assert loader_workers(None, torch.device("cpu"), 1) == 0
    assert loader_workers(2, torch.device("cpu"), 1) == 2
