"""Starts several processes that share one training, one for each GPU.

The stage's process is rank 0. It starts the others itself, with the environment that
`accelerate launch` would set. So rank 0 remains the supervised process, with its signals, exit code
and standard output. The others end with it, and it ends if one of them breaks.
torch.distributed.launcher does not give this: it starts each rank in a session of its own, so that
killing the stage's process group leaves the ranks running (tests/library/test_shares.py).

    python -m lorajob.training.rank_main JOB_DIR CLIPS WITHOUT [CHECKPOINT]    one of the others
"""

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorajob.errors import LorajobError, UsageError
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_BROKEN
from lorajob.probes import left_out

LOOPBACK = "127.0.0.1"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # rank 0 handles them for all
RANK_MODULE = "lorajob.training.rank_main"
END_SECONDS = 10  # time for the others to end by themselves
SECONDS_TO_SEE = 1.0  # most time from the loss of a process's connection to the end of the process
log = logging.getLogger(__name__)


def wanted_processes(gpus: int) -> int:
    """`LORAJOB_PROCESSES`, else one for each GPU, at least one.

    Raises UsageError if the variable is not such a number.
    """
    given = os.environ.get("LORAJOB_PROCESSES")
    if not given:
        return max(1, gpus)
    if not given.isdigit() or int(given) < 1 or (gpus and int(given) > gpus):
        allowed = f"1 to {gpus}, the GPUs here" if gpus else "1 or more"
        raise UsageError(f"LORAJOB_PROCESSES: {given!r} is not allowed; allowed: {allowed}")
    return int(given)


@contextmanager
def shared_by(count: int, job: JobDir, clips: int, resume: Path | None) -> Iterator[None]:
    """Within the block, `count` processes train, with at most `clips` clips in a step.

    This process is rank 0.
    """
    if count == 1:
        yield
        return
    # The store keeps its port until all processes have ended.
    store = _meeting_place(count)
    command = [sys.executable, "-m", RANK_MODULE, str(job.root), str(clips)]
    command.append(",".join(left_out()))
    command += [str(resume)] if resume else []
    # The others start with these signals blocked, so that none ends before it ignores them.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        others = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=os.environ | environment(rank, count, store.port),
            )
            for rank in range(1, count)
        ]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    own = environment(0, count, store.port)
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    leaving = threading.Event()
    for other in others:
        threading.Thread(target=_end_with, args=(other, leaving), daemon=True).start()
    try:
        yield
    # After any error the other processes must end. Then it is raised again.
    except Exception as error:
        # The error may only be the effect of another process's end.
        if not isinstance(error, LorajobError):
            _end_like(others)
        leaving.set()
        for other in others:
            other.kill()
        raise
    finally:
        leaving.set()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for other in others:
            _end(other)


def _meeting_place(count: int) -> Any:
    """A TCPStore of torch.distributed, on a port that the kernel chooses.

    The port is bound before other processes learn it. The store can be shared within this process:
    torch.distributed, as rank 0, would start a store on that port and uses this one. It listens
    only on the loopback, because the socket is made here.
    """
    torch_distributed = importlib.import_module("torch.distributed")
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        port = listening.getsockname()[1]
        return torch_distributed.TCPStore(
            LOOPBACK,
            port,
            count,
            True,
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=listening.detach(),  # closed by the store
        )


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables that torch.distributed and accelerate read."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    place = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    return {name: str(value) for name, value in values.items()} | place


def _end_with(other: subprocess.Popen[bytes], leaving: threading.Event) -> None:
    """End this process when the other process fails, unless this one is ending already.

    The main thread may be waiting for an answer that will never come.
    """
    code = other.wait()
    if code < 0 and not leaving.is_set():
        _end_like([other])
    elif code and not leaving.wait(END_SECONDS):
        log.error("a process of this training ended with exit code %d", code)
        os._exit(EXIT_BROKEN)


def _end_like(others: list[subprocess.Popen[bytes]]) -> None:
    """If a signal ended one of the others, kill this process too, so that the stage is retried."""
    until = time.monotonic() + SECONDS_TO_SEE
    while time.monotonic() < until:
        for other in others:
            if (code := other.poll()) is not None and code < 0:
                log.error("a process of this training was ended by signal %d", -code)
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)


def _end(other: subprocess.Popen[bytes]) -> None:
    if other.stdin is not None:
        other.stdin.close()
    try:
        other.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        other.kill()
        other.wait()
