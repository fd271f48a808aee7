"""`python -m lorajob.training.rank_main JOB_DIR [CHECKPOINT]`: every process but the first."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from lorajob.errors import LorajobError, says_out_of_memory
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_BROKEN, EXIT_FAILED
from lorajob.spec import JobSpec
from lorajob.training.loop import run_rank

log = logging.getLogger(__name__)


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
        run_rank(JobSpec.load(job.spec_path), job, resume)
    except LorajobError:  # rank 0 meets it too, and says it
        os._exit(EXIT_FAILED)
    except Exception as error:  # a bug, or no memory: rank 0 waits, and must see this process end
        log.exception("a process of this training broke")
        if says_out_of_memory(error):  # as the kernel would end it, and tried again like that
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(EXIT_BROKEN)  # not through atexit: loader processes heed no SIGTERM


if __name__ == "__main__":
    main()
