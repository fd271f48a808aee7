"""Runs one stage as a child process and watches it until it ends.

The child has a process group of its own and reads a pipe that the supervisor never writes to: at
the end of that pipe, which a killed supervisor brings about too, it ends itself and its children.
It is not told where Redis is, nor any password.
"""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from lorajob import logs
from lorajob.cores import share_cpu
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_FAILED, EXIT_STOPPED
from lorajob.worker.supervision.outcome import (
    Committed,
    Crashed,
    Failed,
    Listener,
    Outcome,
    Progress,
    Stopped,
    StopReason,
)

STAGE_COMMAND = (sys.executable, "-m", "lorajob.stage")
TICK_SECONDS = 0.2
STALLS_BEFORE_FIRST_STEP = 4  # a base model of gigabytes may have to come from the Hub
PROGRESS_SECONDS = 0.5  # progress is told at most this often
# of the stores' credentials; the worker fetches and pushes, not the stage
SECRET_STARTS = ("AWS_", "AZURE_STORAGE_", "GOOGLE_APPLICATION_")
SECRET_WORDS = (
    *("PASSWORD", "SECRET", "BASIC_AUTH", "REDISCLI_AUTH", "BROKER_URL", "RESULT_BACKEND"),
    *("WEBHOOK", "OTLP_HEADERS", "OTLP_TRACES_HEADERS"),
)

logger = logging.getLogger(__name__)


@dataclass
class Child:
    """A running stage and what it has said so far."""

    process: subprocess.Popen[bytes]
    reader: threading.Thread
    said: "Said"
    stop_reason: StopReason | None = None
    kill_at: float | None = None  # monotonic seconds

    @property
    def ended(self) -> bool:
        """True once it is dead; it stays a zombie, so that its group's id is still its own."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        os.killpg(self.process.pid, number)

    def stop(self, reason: StopReason, grace_seconds: float) -> None:
        """Ask once for the end and set the time when it is forced; a superseded claim has none."""
        if reason == "superseded":
            self.stop_reason, self.kill_at = reason, time.monotonic()
        elif self.stop_reason is None:
            self.stop_reason, self.kill_at = reason, time.monotonic() + grace_seconds
            self.signal(signal.SIGTERM)

    def reap(self) -> int:
        """End what is left of the group and return the stage's exit code."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        self.reader.join(timeout=5)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code


@dataclass
class Said:
    """The latest of each event of a stage; written by the reader's thread."""

    progress: Progress | None = None
    error: dict[str, Any] | None = None
    heard_at: float = field(default_factory=time.monotonic)  # of its last step, or its start
    stepped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_progress(self) -> Progress | None:
        """What is new since it was last asked for."""
        with self.lock:
            progress, self.progress = self.progress, None
        return progress

    def hear(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        event.pop("stage", None)
        with self.lock:
            if kind == "progress":
                self.progress = Progress.model_validate(event)
                self.heard_at, self.stepped = time.monotonic(), True
            elif kind == "error":
                self.error = event


def supervise(
    stage: str,
    job: JobDir,
    attempt: int,
    watcher: Listener,
    *,
    grace_seconds: float,
    stall_seconds: float = math.inf,
    watch_seconds: float = 1.0,
    worker: str = "",
    gpu: bool = True,
    command: tuple[str, ...] = STAGE_COMMAND,
) -> Outcome:
    """Run a stage to its end.

    `watcher` hears new progress, or None, about every `watch_seconds` and tells whether to stop
    and why: SIGTERM first and SIGKILL after `grace_seconds`, or SIGKILL at once if the claim is
    superseded. A stage that reports no step for `stall_seconds`, four times as long before its
    first, is stopped as well.
    The child's standard error goes to log/STAGE.log, framed by a line at the start and the end.
    """
    path = job.log_path(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as log:
        _note(log, f"attempt {attempt} begins on {worker or 'this machine'}")
        arguments = [*command, stage, str(job.root), "--attempt", str(attempt)]
        child = _start(arguments, child_environment(gpu), log)
        try:
            _watch_child(child, watcher, grace_seconds, stall_seconds, watch_seconds)
        finally:
            code = child.reap()
        outcome = _outcome(stage, job, child, code)
        _note(log, f"attempt {attempt}: {outcome}")
    return outcome


def child_environment(gpu: bool = True) -> dict[str, str]:
    """This process's environment without Redis and without anything that names a password.

    Without `gpu` no card is visible: a stage of the cpu queue takes no memory from training. The
    stage gets its share of the CPU's threads (lorajob.cores).
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "LORAJOB_REDIS_URL"
        and not name.startswith(SECRET_STARTS)
        and not any(word in name for word in SECRET_WORDS)
    }
    share_cpu(kept)
    return kept if gpu else kept | {"CUDA_VISIBLE_DEVICES": ""}


def _start(command: list[str], env: dict[str, str], log: IO[bytes]) -> Child:
    process = subprocess.Popen(
        [*command, "--supervised"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=env,
        start_new_session=True,
        close_fds=True,  # another stage must not hold this one's lifeline
    )
    said = Said()
    reader = threading.Thread(target=_listen, args=(process.stdout, said, log), daemon=True)
    reader.start()
    return Child(process, reader, said)


def _listen(stdout: IO[bytes], said: Said, log: IO[bytes]) -> None:
    """Hear the stage's events; what is none of them goes to the log."""
    with stdout:
        for line in stdout:
            try:
                said.hear(json.loads(line))
            except (ValueError, KeyError, AttributeError, TypeError):
                _write(log, line)


def _watch_child(
    child: Child,
    watcher: Listener,
    grace_seconds: float,
    stall_seconds: float,
    watch_seconds: float,
) -> None:
    told = 0.0
    pending: Progress | None = None
    while not child.ended:
        now = time.monotonic()
        pending = child.said.take_progress() or pending
        if now - told >= (min(PROGRESS_SECONDS, watch_seconds) if pending else watch_seconds):
            reason = watcher.hear(pending)
            told, pending = now, None
            if reason is not None:
                child.stop(reason, grace_seconds)
        patience = stall_seconds * (1 if child.said.stepped else STALLS_BEFORE_FIRST_STEP)
        if now - child.said.heard_at >= patience:
            child.stop("stalled", grace_seconds)
        if child.kill_at is not None and now >= child.kill_at:
            child.signal(signal.SIGKILL)
        child.reader.join(timeout=TICK_SECONDS)  # returns at once when the stage has said its last
        if not child.reader.is_alive():
            time.sleep(TICK_SECONDS / 10)


def _outcome(stage: str, job: JobDir, child: Child, code: int) -> Outcome:
    if code == 0 and (result := job.result(stage)) is not None:
        return Committed(result)
    if code == EXIT_FAILED and (error := child.said.error) is not None:
        return Failed(str(error.get("kind", "error")), str(error.get("message", "")))
    if child.stop_reason is not None:
        return Stopped(child.stop_reason)
    if code == EXIT_STOPPED:
        return Stopped("shutdown")  # somebody else asked: the machine, or a person
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    return Crashed(code, f"stage {stage} {how}; see log/{stage}.log")


def _signal_name(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL, as a machine out of memory does"
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _note(log: IO[bytes], text: str) -> None:
    if logs.wants_json():
        line = logs.line("info", "supervisor", text, datetime.now(UTC))
    else:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}"
    _write(log, f"{line}\n".encode())


def _write(log: IO[bytes], line: bytes) -> None:
    """A disk that is full must not end the supervision of a stage."""
    try:
        log.write(line)
    except OSError as error:
        logger.warning("the stage's log cannot be written: %s", error)
