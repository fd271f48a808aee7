"""Shares the windows of an optimizer step among the processes of a training.

All processes wait for the one with the most work, once a step. So each gets about the same cost.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from itertools import islice

from lorajob.training.packing import ClipSizes, Window, pass_seconds

STEPS_TO_JUDGE = 200  # they show how evenly a plan shares its work


def share_step(costs: Sequence[float], processes: int) -> list[list[int]]:
    """The places in `costs` of each process's windows, in rising order.

    The costliest window goes first, each to the process with the least cost so far. The greatest
    sum is at most 4/3 of the least possible one (Graham, 1969, "Bounds on multiprocessing timing
    anomalies").
    """
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [(0.0, number) for number in range(processes)]
    heapify(loads)
    for place in sorted(range(len(costs)), key=lambda it: (-costs[it], it)):
        load, number = loads[0]
        heapreplace(loads, (load + costs[place], number))
        shares[number].append(place)
    return [sorted(share) for share in shares]


def balance(plan: Sequence[Sequence[Window]], sizes: ClipSizes, processes: int) -> float:
    """Mean cost of a process, as a share of the costliest process's, over the first steps.

    It is 1 if no process ever waits for another. A plan with fewer windows in a step than
    processes cannot exceed windows / processes.
    """
    mean = busiest = 0.0
    for step in islice(plan, STEPS_TO_JUDGE):
        costs = [pass_seconds([0], [window], sizes) for window in step]
        shares = share_step(costs, processes)
        mean += sum(costs) / processes
        busiest += max(sum(costs[place] for place in share) for share in shares)
    return mean / busiest
