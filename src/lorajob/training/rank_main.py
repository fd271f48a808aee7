"""`python -m lorajob.training.rank_main JOB_DIR CLIPS WITHOUT [CHECKPOINT]`: one besides rank 0.

WITHOUT lists the packages that rank 0 left out, with commas.
"""

import importlib
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from lorajob.errors import LorajobError, StageError, StageStopped, says_out_of_memory
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_BROKEN, EXIT_FAILED, Report
from lorajob.probes import lasting_imports, leave_out
from lorajob.spec import JobSpec
from lorajob.training.ranks import (
    STOP_SIGNALS,
    Begin,
    launched_rank,
    wait_for_begin,
    wait_for_end,
)

log = logging.getLogger(__name__)


def _end_with_first() -> None:
    """End this process when standard input ends. Rank 0 holds its other end."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    # Rank 0 decides when to stop.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _end_with_first()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    job = JobDir(Path(sys.argv[1]))
    clips = int(sys.argv[2])
    leave_out(name for name in sys.argv[3].split(",") if name)
    resume = sys.argv[4] if len(sys.argv) > 4 else None
    # All stop together. Rank 0 says so.
    with suppress(StageStopped):
        _train(job, Begin(clips=clips, resume=resume), Report("train"))


def run_launched(job: JobDir, report: Report) -> None:
    """The share of a process that torch's launcher started, besides rank 0.

    Raises StageStopped if any process was asked to stop, and StageError if rank 0 is lost or the
    job's folder is not on this machine.
    """
    begin = wait_for_begin()
    if begin is None:
        return
    if not job.spec_path.is_file():
        raise StageError(
            f"{job.root}: no spec.json here; the job's folder must be at the same path on all "
            "machines"
        )
    try:
        _train(job, begin, report)
    finally:
        # Rank 0 still writes its checkpoint or its result.
        wait_for_end()


def _train(job: JobDir, begin: Begin, report: Report) -> None:
    resume = None if begin.resume is None else Path(begin.resume)
    try:
        with lasting_imports():
            loop = importlib.import_module("lorajob.training.loop")
        loop.run_rank(JobSpec.load(job.spec_path), job, begin.clips, resume, report)
    except StageStopped:
        raise
    # Rank 0 gets the same error and reports it, but perhaps not if it is on another machine.
    except LorajobError as error:
        if launched_rank() is not None:
            log.error("%s", error)
        os._exit(EXIT_FAILED)
    # A bug, or out of memory. Rank 0 waits for this process and must see it end.
    except Exception as error:
        log.exception("a process of this training broke")
        # End as if the kernel had killed this process, so that the stage is retried.
        if says_out_of_memory(error):
            os.kill(os.getpid(), signal.SIGKILL)
        # Without atexit handlers: they would wait for loader processes, which ignore SIGTERM.
        os._exit(EXIT_BROKEN)


if __name__ == "__main__":
    main()
