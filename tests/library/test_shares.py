"""The processes of a training get equal shares of each step."""

import os
import random
import signal

import pytest
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from lorajob.spec import TrainConfig
from lorajob.training.packing import ClipSizes, plan_epoch
from lorajob.training.shares import balance, share_step


def test_each_window_goes_to_one_process_and_the_loads_are_even() -> None:
    assert share_step([8, 7, 6, 5, 4], 2) == [[0, 3, 4], [1, 2]]
    assert share_step([1.0], 3) == [[0], [], []]
    assert share_step([], 2) == [[], []]
    costs = [random.Random(1).uniform(1, 40) for _ in range(64)]
    shares = share_step(costs, 8)
    assert sorted(place for share in shares for place in share) == list(range(64))
    loads = [sum(costs[place] for place in share) for share in shares]
    assert max(loads) < 1.03 * sum(loads) / 8


def clips(count: int) -> ClipSizes:
    """Lengths like those of Common Voice: a median of 4 s, few over 10 s."""
    rng = random.Random(7)
    seconds = [min(29.9, max(0.5, rng.lognormvariate(1.35, 0.45))) for _ in range(count)]
    tokens = [max(3, int(it * rng.uniform(8, 16))) for it in seconds]
    return ClipSizes(seconds, tokens, [str(it % 300) for it in range(count)])


@pytest.mark.parametrize(("processes", "clips_a_process"), [(2, 16), (4, 16), (8, 16), (8, 64)])
def test_a_step_as_gpus_take_it_keeps_all_of_them_busy(
    processes: int, clips_a_process: int
) -> None:
    sizes = clips(20_000)
    plan = plan_epoch(sizes, TrainConfig(batch_clips=processes * clips_a_process), 1, 0)
    assert balance(plan, sizes, processes) > 0.97


def test_a_step_with_fewer_windows_than_processes_is_said_to_waste_them() -> None:
    sizes = clips(2_000)
    plan = plan_epoch(sizes, TrainConfig(batch_clips=4, packing=False), 1, 0)
    assert balance(plan, sizes, 8) <= 0.5


def test_torchs_launcher_would_leave_ranks_behind() -> None:
    """Why training/ranks.py starts the ranks: the supervisor kills the stage's process group."""
    rank = SubprocessHandler("sleep", ("60",), {}, None, None, 0, None)
    try:
        assert os.getpgid(rank.proc.pid) == rank.proc.pid != os.getpgid(0)
    finally:
        rank.close(signal.SIGKILL)
        rank.proc.wait()
