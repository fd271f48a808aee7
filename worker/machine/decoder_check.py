"""Checks that CTranslate2 computes on each visible GPU, in a process of its own.

That a library is found does not tell that it works: its version may not fit the driver or the card.
So lorajob.whisper.decoder_check_main encodes and decodes with a tiny model. A process of its own
gives the memory back, and a library that does not fit may end it.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lorajob.errors import ServiceError
from lorajob.worker.machine.gpus import (
    KILL_SECONDS,
    LOOK_SECONDS,
    PLAIN,
    ask_nvidia_smi,
    devices,
    run_on_gpu,
)
from lorajob.worker.ticker import Ticker

CHECK_SECONDS = 120.0  # at most; CUDA takes up to some 20 s to load on a busy machine
AGAIN_SECONDS = 3600.0  # from a check that failed by a bug to the next
COMMAND = (sys.executable, "-m", "lorajob.whisper.decoder_check_main")
REMEDY = "pip install 'lorajob[cuda]'"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecoderCheck:
    """Why CTranslate2 cannot compute on a GPU. `error` is empty if it can.

    `gpu` is the number of the device among the visible ones. `missing` names libraries that were
    not found.
    """

    gpu: int
    error: str = ""
    missing: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for a user."""
        if not self.error:
            return f"CTranslate2 decodes on GPU {self.gpu}"
        lacks = f"; not found: {', '.join(self.missing)}" if self.missing else ""
        return f"CTranslate2 cannot decode on GPU {self.gpu}: {self.error}{lacks}"


def check_decoders(
    stopped: Callable[[], bool] = lambda: False, command: Sequence[str] = COMMAND
) -> list[DecoderCheck]:
    """Check each GPU that CTranslate2 sees; [] if it sees none.

    The check ends early, with what it has found, if `stopped` becomes true.
    """
    try:
        done = run_on_gpu(command, CHECK_SECONDS, stopped)
    except OSError as error:
        return [DecoderCheck(0, f"the check cannot be started: {error}")]
    found = [it for it in map(_parse, done.output.splitlines()) if it is not None]
    if done.code != 0 and not stopped():
        # The GPU behind the last line is the one that failed.
        lines = done.errors.strip().splitlines() or [f"the check ended with {done.code}"]
        why = f"no answer within {CHECK_SECONDS:.0f} s" if done.late else lines[-1][-300:]
        found.append(DecoderCheck(len(found), why))
    return found


def _parse(line: str) -> DecoderCheck | None:
    """None for a line that a library has written."""
    try:
        said = json.loads(line)
        return DecoderCheck(said["gpu"], said["error"], tuple(said["missing"]))
    except (ValueError, LookupError, TypeError):
        return None


def decoder_check() -> Ticker:
    """A thread that checks once whether CTranslate2 decodes on the worker's GPUs, and logs it.

    A worker without a GPU has no such check. A failed check takes no worker out, because PyTorch
    decodes then.
    """
    stopped = threading.Event()
    turn = partial(_log_decoders, stopped.is_set)
    end_seconds = 2 * LOOK_SECONDS + KILL_SECONDS
    return Ticker("decoder-check", AGAIN_SECONDS, turn, end_seconds=end_seconds, stopped=stopped)


def _log_decoders(stopped: Callable[[], bool]) -> bool:
    """Returns False, because it need not be called again."""
    try:
        if not devices():
            return False
        # Such a GPU has one process at a time, and a job may begin meanwhile.
        if "Exclusive" in ask_nvidia_smi("--query-gpu=compute_mode", *PLAIN):
            logger.info("CTranslate2 is not tried on GPUs in an exclusive compute mode")
            return False
    except ServiceError:
        return False  # the worker's check of itself complains
    found = check_decoders(stopped)
    if not found and not stopped():
        logger.warning("CTranslate2 sees no GPU, so PyTorch decodes; is the driver too old?")
    for it in found:
        if it.error:
            logger.warning("%s; PyTorch decodes instead: %s", it.text, REMEDY)
        else:
            logger.info("%s", it.text)
    return False
