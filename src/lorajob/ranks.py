"""Several processes that share one training, one a GPU; the stage itself is the first of them.

It starts the others with what `accelerate launch` would put into their environment, so that it
stays the process that is supervised: its signals, its exit code, its standard output. They end with
it, and it with any of them that breaks.

    python -m lorajob.ranks JOB_DIR [CHECKPOINT]    one of the others
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
from lorajob.jobdir import JobDir
from lorajob.room import says_out_of_memory
from lorajob.spec import JobSpec
from lorajob.stage import EXIT_BROKEN, EXIT_FAILED

LOOPBACK = "127.0.0.1"
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
def shared_by(count: int, job: JobDir, resume: Path | None) -> Iterator[None]:
    """Within the block `count` processes train; this one is rank 0."""
    if count == 1:
        yield
        return
    store = _meeting_place(count)  # held until all have gone: no other program can have its port
    command = [sys.executable, "-m", __name__, str(job.root), *([str(resume)] if resume else [])]
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


def _end_with_first() -> None:
    """End at the end of standard input, which rank 0 holds."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # rank 0 says when to stop
        signal.signal(number, signal.SIG_IGN)
    _end_with_first()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    job = JobDir(Path(sys.argv[1]))
    resume = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        importlib.import_module("lorajob.train").run_rank(JobSpec.load(job.spec_path), job, resume)
    except LorajobError:  # rank 0 meets it too, and says it
        os._exit(EXIT_FAILED)
    except Exception as error:  # a bug, or no memory: rank 0 waits, and must see this process end
        log.exception("a process of this training broke")
        if says_out_of_memory(error):  # as the kernel would end it, and tried again like that
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(EXIT_BROKEN)  # not through atexit: loader processes heed no SIGTERM


if __name__ == "__main__":
    main()
