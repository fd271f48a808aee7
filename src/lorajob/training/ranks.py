"""Several processes that share one training, one a GPU; the stage itself is the first of them.

It starts the others with what `accelerate launch` would put into their environment, so that it
stays the process that is supervised: its signals, its exit code, its standard output. They end with
it, and it with any of them that breaks.

    python -m lorajob.training.rank_main JOB_DIR [CHECKPOINT]    one of the others
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

LOOPBACK = "127.0.0.1"
RANK_MODULE = "lorajob.training.rank_main"
END_SECONDS = 10  # the others get so long to end by themselves
SECONDS_TO_SEE = 1.0  # from the end of a process's connection to its own
log = logging.getLogger(__name__)


def wanted_processes(gpus: int) -> int:
    """`LORAJOB_PROCESSES`, else one a GPU, one without. Raises UsageError for no such number."""
    given = os.environ.get("LORAJOB_PROCESSES")
    if not given:
        return max(1, gpus)
    if not given.isdigit() or int(given) < 1 or (gpus and int(given) > gpus):
        allowed = f"1 to {gpus}, the GPUs here" if gpus else "1 or more"
        raise UsageError(f"LORAJOB_PROCESSES: {given!r} is not allowed; allowed: {allowed}")
    return int(given)


@contextmanager
def shared_by(count: int, job: JobDir, clips: int, resume: Path | None) -> Iterator[None]:
    """Within the block `count` processes train, with at most `clips` a step; this one is rank 0."""
    if count == 1:
        yield
        return
    store = _meeting_place(count)  # held until all have gone: no other program can have its port
    command = [sys.executable, "-m", RANK_MODULE, str(job.root), str(clips)]
    command += [str(resume)] if resume else []
    others = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | environment(rank, count, store.port),
        )
        for rank in range(1, count)
    ]
    own = environment(0, count, store.port)
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    leaving = threading.Event()
    for other in others:
        threading.Thread(target=_end_with, args=(other, leaving), daemon=True).start()
    try:
        yield
    except Exception as error:  # whatever it was, the others must end with it; raised again
        if not isinstance(error, LorajobError):  # perhaps only because another's end was felt
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
    """A TCPStore of torch.distributed on a port of the kernel's choice, bound before it is told.

    It may be shared within this process: where torch.distributed, as rank 0, would serve one on
    that port, it finds this one. Through a socket of our own it listens on the loopback alone.
    """
    torch_distributed = importlib.import_module("torch.distributed")
    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        port = listening.getsockname()[1]
        return torch_distributed.TCPStore(
            *(LOOPBACK, port, count, True),
            wait_for_workers=False,
            multi_tenant=True,
            master_listen_fd=listening.detach(),  # closed by the store
        )


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torch.distributed and accelerate read."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    place = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port)}
    return {name: str(value) for name, value in values.items()} | place


def _end_with(other: subprocess.Popen[bytes], leaving: threading.Event) -> None:
    """End this process if the other has, unless this one goes by itself: its main thread may wait
    for an answer that will not come.
    """
    code = other.wait()
    if code < 0 and not leaving.is_set():
        _end_like([other])
    elif code and not leaving.wait(END_SECONDS):
        log.error("a process of this training ended with exit code %d", code)
        os._exit(EXIT_BROKEN)


def _end_like(others: list[subprocess.Popen[bytes]]) -> None:
    """Where a signal ended one of the others, it ends this one: the whole is tried again."""
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
