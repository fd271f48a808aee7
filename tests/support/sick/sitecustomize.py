"""A broken machine: with this folder in PYTHONPATH stages meet LORAJOB_TEST_FAULT.

They are those of LORAJOB_TEST_STAGES, or `train`.

`card` raises what torch raises for a GPU that failed, `mount` what a missing file does, `disk` what
a full disk does, `crash` ends in native code. The file LORAJOB_TEST_REPAIRED repairs the machine.
"""

import ctypes
import errno
import os
import sys
from pathlib import Path


def raise_fault(*_: object) -> None:
    if Path(os.environ.get("LORAJOB_TEST_REPAIRED", "/nowhere")).exists():
        return None
    match os.environ.get("LORAJOB_TEST_FAULT"):
        case "card":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        case "mount":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "clips.bin")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "clips.bin")
        case "crash":
            ctypes.string_at(0)
    return None


stages = os.environ.get("LORAJOB_TEST_STAGES", "train").split()
if "lorajob.stage" in sys.orig_argv and not {*stages}.isdisjoint(sys.orig_argv):
    from lorajob.job.jobdir import JobDir

    healthy = JobDir.result
    JobDir.result = lambda *given: raise_fault() or healthy(*given)
