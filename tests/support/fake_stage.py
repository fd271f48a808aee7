"""A stage with a will of its own: `fake_stage.py WHAT JOB_DIR --attempt N --supervised`."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_FAILED, EXIT_STOPPED
from lorajob.job.results import StageResult
from lorajob.stage import _end_with_supervisor

what, job = sys.argv[1], JobDir(Path(sys.argv[2]))
stopped = threading.Event()


def say(event, **fields):
    print(json.dumps({"event": event, "stage": what, **fields}), flush=True)


def wait_for_stop():
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    say("progress", step=1, total=2, loss=2.5, eta_seconds=9.0)
    while not stopped.wait(0.05):
        pass


def finish():
    print("a library that prints", flush=True)
    print("and one that warns", file=sys.stderr)
    say("progress", step=2, total=2)
    out = job.new_attempt(what, int(sys.argv[4]))
    (out / "environment.json").write_text(json.dumps(dict(os.environ)))
    job.commit(what, out, StageResult(answer=42, none=[]))


_end_with_supervisor()
if what == "preprocess":
    finish()
elif what == "train":  # stops when asked
    wait_for_stop()
    sys.exit(EXIT_STOPPED)
elif what == "stubborn":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (job.root / "pids").write_text(f"{os.getpid()} {child.pid}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("progress", step=1, total=2)
    signal.pause()
elif what == "failing":
    say("error", kind="corpus", message="corpus: no usable clip (3 unreadable audio)")
    sys.exit(EXIT_FAILED)
elif what == "buggy":
    raise ZeroDivisionError("a bug of this stage")
elif what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
