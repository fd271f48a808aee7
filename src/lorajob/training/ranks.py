"""Starts several processes that share one training, one for each GPU.

torch's launcher can start them instead, on several machines (`LAUNCHED`). Otherwise the stage's
process is rank 0. It starts the others itself, with the environment that
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lorajob.errors import LorajobError, StageError, UsageError, first_line
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_BROKEN
from lorajob.probes import left_out

LOOPBACK = "127.0.0.1"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # rank 0 handles them for all
RANK_MODULE = "lorajob.training.rank_main"
END_SECONDS = 10  # time for the others to end by themselves
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torch's launcher sets it for its processes
ASK_SECONDS = 0.2  # between two questions whether rank 0 has begun
BEGIN_SECONDS = 1800.0  # time for rank 0 to begin: it plans the steps, and checks its checkpoints
NO_TRAINING = b"-"
# Time for rank 0 to write its files after the training, and before that to choose the weights.
CLOSE_SECONDS = 1800.0
SECONDS_TO_SEE = 1.0  # most time from the loss of a process's connection to the end of the process
log = logging.getLogger(__name__)


def launched_rank() -> int | None:
    """The number of this process among those that torch's launcher started; None without it."""
    return int(os.environ["RANK"]) if LAUNCHED in os.environ else None


def wanted_processes(gpus: int) -> int:
    """How many processes torch's launcher started, else `LORAJOB_PROCESSES`, else one for each GPU,
    at least one.

    Raises UsageError if the variable is not such a number.
    """
    if LAUNCHED in os.environ:
        return int(os.environ["WORLD_SIZE"])
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
    if LAUNCHED in os.environ:
        begin = Begin(clips=clips, resume=None if resume is None else str(resume))
        _launchers_store().set(_begin_key(), begin.model_dump_json())
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


class Begin(BaseModel, frozen=True):
    """What rank 0 tells the others before they begin."""

    clips: int  # at most, in a step
    resume: str | None  # folder of the checkpoint


def wait_for_begin() -> Begin | None:
    """What rank 0 tells the processes of torch's launcher; None if it ends without a training.

    Raises StageError if rank 0 or its machine is lost.
    """
    until = time.monotonic() + BEGIN_SECONDS
    try:
        store, key = _launchers_store(), _begin_key()
        while not store.check([key]):
            if time.monotonic() > until:
                raise StageError(f"train: rank 0 has not begun for {BEGIN_SECONDS / 60:.0f} min")
            time.sleep(ASK_SECONDS)
        told = store.get(key)
    # torch's DistError, without loading torch first.
    except RuntimeError as error:
        raise StageError(
            f"train: the first machine cannot be reached; its log says why: {first_line(error)}"
        ) from error
    return Begin.model_validate_json(told) if told != NO_TRAINING else None


def tell_end() -> None:
    """Rank 0 of torch's launcher ends. Others that wait for its training or its end, end too."""
    with suppress(RuntimeError):
        store, key = _launchers_store(), _begin_key()
        # It has no effect once the training has begun.
        store.compare_set(key, "", NO_TRAINING.decode())
        store.set(_end_key(), "")


def wait_for_end() -> None:
    """Wait until rank 0 of torch's launcher ends or is lost, at most CLOSE_SECONDS.

    If a process of its machine ends with an exit code, the launcher kills rank 0 half a minute
    later. If the machine with the launcher's store ends, rank 0 ends five minutes later.
    """
    until = time.monotonic() + CLOSE_SECONDS
    with suppress(RuntimeError):
        store, key = _launchers_store(), _end_key()
        while not store.check([key]) and time.monotonic() < until:
            time.sleep(ASK_SECONDS)


def _launchers_store() -> Any:
    """The launcher's TCPStore, which all of its processes reach."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return importlib.import_module("torch.distributed").TCPStore(*place, is_master=False)


def _begin_key() -> str:
    """A key of this start: the launcher may start all processes again."""
    return f"lorajob/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _end_key() -> str:
    return f"{_begin_key()}/end"


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
