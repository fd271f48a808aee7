"""A training that waits: with this folder in PYTHONPATH it stops at a step until a test lets it go.

It waits after it has reported step N or a later one while LORAJOB_TEST_HELD has a file JOB.N. It
still stops on request. So a test that disturbs a training never comes too late.
"""

import os
import sys
import time
from pathlib import Path

if "lorajob.stage" in sys.orig_argv and "train" in sys.orig_argv:
    from lorajob.job.report import Report

    holds = Path(os.environ["LORAJOB_TEST_HELD"])
    job = next(Path(word).name for word in sys.orig_argv if "/" in word and Path(word).is_dir())
    reported = Report.progress

    def held(step: int) -> bool:
        return any(step >= int(path.suffix[1:]) for path in holds.glob(f"{job}.*"))

    def progress(self: Report, step: int, total: int, **fields: object) -> None:
        reported(self, step, total, **fields)
        while held(step) and not self.stop_requested:
            time.sleep(0.05)

    Report.progress = progress
