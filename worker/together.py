"""Several workers as one command: they start, are stopped and end together."""

import signal
import subprocess
from collections.abc import Mapping
from types import FrameType

from lorajob.worker.machine.processes import spawn

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
Launch = tuple[list[str], Mapping[str, str]]  # command, environment


def run_together(launches: list[Launch]) -> int:
    """Start one process each, pass signals on to all, wait for all; none is started again.

    Returns 0, or the exit code of the first that failed (128 and the signal for one that a signal
    ended). Should this process be killed, the kernel tells them to stop. Main thread only.
    """
    children: list[subprocess.Popen[bytes]] = []
    told: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        told.append(number)
        for child in children:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        for command, env in launches:
            if told:
                break
            children.append(spawn(command, env=env, log=None, death_signal=signal.SIGTERM))
            if told:  # while it started
                children[-1].send_signal(told[-1])
        codes = [child.wait() for child in children]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    wanted = {-number for number in told}  # one that had not set up to be told yet
    failures = [code for code in codes if code and code not in wanted]
    return next((code if code > 0 else 128 - code for code in failures), 0)
