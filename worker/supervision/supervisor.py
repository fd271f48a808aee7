"""Runs one stage as a child process and watches it until it ends.

The child has a process group of its own and reads a pipe that the supervisor never writes to. The
pipe closes when the supervisor ends, even if it is killed; the child then ends itself and its own
children. `child_environment` leaves secrets out of the child's environment.
"""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from lorajob import logs
from lorajob.cores import share_cpu
from lorajob.job.jobdir import JobDir
from lorajob.job.report import EXIT_FAILED, EXIT_STOPPED
from lorajob.visible import visible
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
TRACE_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)')
TICK_SECONDS = 0.2
POLITE = (-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT)  # exit codes
STALLS_BEFORE_FIRST_STEP = 4  # a base model of gigabytes may have to come from the Hub
PROGRESS_SECONDS = 0.5  # shortest time between two reports of progress
# The credentials of stores. Only the worker fetches and pushes files, so the stage needs none.
SECRET_STARTS = ("AWS_", "AZURE_STORAGE_", "GOOGLE_APPLICATION_")
TRACKER_SECRETS = ("MLFLOW_TRACKING_PASSWORD",)  # a stage's tracker needs it
SECRET_WORDS = (
    "SIGNING_KEY",
    "LORAJOB_API_KEY",
    "LORAJOB_SUBMIT_KEYS",
    "LORAJOB_VIEW_KEYS",
    "PASSWORD",
    "SECRET",
    "BASIC_AUTH",
    "REDISCLI_AUTH",
    "BROKER_URL",
    "RESULT_BACKEND",
    "WEBHOOK",
    "OTLP_HEADERS",
    "OTLP_TRACES_HEADERS",
)

logger = logging.getLogger(__name__)


@dataclass
class Child:
    """A running stage and what it has reported so far."""

    process: subprocess.Popen[bytes]
    reader: threading.Thread
    said: "Said"
    stop_reason: StopReason | None = None
    kill_at: float | None = None  # monotonic seconds

    @property
    def ended(self) -> bool:
        """True once the process is dead. It stays a zombie, which reserves its group's id."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, flags) is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        os.killpg(self.process.pid, number)

    def stop(self, reason: StopReason, grace_seconds: float) -> None:
        """Send SIGTERM once and set the time of SIGKILL; if superseded, only SIGKILL, at once."""
        if reason == "superseded":
            self.stop_reason, self.kill_at = reason, time.monotonic()
        elif self.stop_reason is None:
            self.stop_reason, self.kill_at = reason, time.monotonic() + grace_seconds
            self.signal(signal.SIGTERM)

    def reap(self) -> int:
        """Kill the rest of the process group and return the stage's exit code."""
        self.signal(signal.SIGKILL)
        code = self.process.wait()
        self.reader.join(timeout=5)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code


@dataclass
class Said:
    """The latest event of each kind from a stage. The reader's thread writes it."""

    progress: Progress | None = None
    error: dict[str, object] | None = None
    heard_at: float = field(default_factory=time.monotonic)  # of its last step, or its start
    stepped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take_progress(self) -> Progress | None:
        """The progress since the last call; None if there is none."""
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
    listener: Listener,
    *,
    grace_seconds: float,
    stall_seconds: float = math.inf,
    watch_seconds: float = 1.0,
    worker: str = "",
    gpu: bool = True,
    command: tuple[str, ...] = STAGE_COMMAND,
) -> Outcome:
    """Run a stage to its end.

    `listener` hears new progress, or None, about every `watch_seconds`, and returns a reason to
    stop or None. To stop the stage the supervisor sends SIGTERM, and SIGKILL after `grace_seconds`;
    if the claim is superseded it sends SIGKILL at once. It also stops a stage that reports no step
    for `stall_seconds`; before the first step the limit is four times as long.

    The child's standard error goes to log/STAGE.log, between a line at the start and one at the
    end.
    """
    path = job.log_path(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as log:
        begun = log.tell()
        _note(log, f"attempt {attempt} begins on {worker or 'this machine'}")
        arguments = [*command, stage, str(job.root), "--attempt", str(attempt)]
        child = _start(arguments, child_environment(gpu), log)
        try:
            _watch_child(child, listener, grace_seconds, stall_seconds, watch_seconds)
        finally:
            code = child.reap()
        # What the child reported just before its end. It is too late for a reason to stop.
        if (last := child.said.take_progress()) is not None:
            listener.hear(last)
        outcome = _outcome(stage, job, child, code, begun)
        _note(log, f"attempt {attempt}: {outcome}")
    return outcome


def child_environment(gpu: bool = True) -> dict[str, str]:
    """This process's environment without the url of Redis and without secrets.

    HF_TOKEN and MDC_API_KEY stay, because a stage downloads base models and corpora. The keys of
    experiment trackers stay, because a training sends its curves to them.

    Without `gpu` no GPU is visible, so that a stage of the cpu queue takes no memory from
    training. The stage gets its share of the CPU's threads (lorajob.cores).
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "LORAJOB_REDIS_URL"
        and not name.startswith(SECRET_STARTS)
        and (name in TRACKER_SECRETS or not any(word in name for word in SECRET_WORDS))
    }
    share_cpu(kept)
    kept.setdefault("PYTHONFAULTHANDLER", "1")  # a crash of native code leaves a trace in the log
    return kept if gpu else kept | {"CUDA_VISIBLE_DEVICES": ""}


def _start(command: list[str], env: dict[str, str], log: IO[bytes]) -> Child:
    process = subprocess.Popen(
        [*command, "--supervised"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=env,
        start_new_session=True,
        close_fds=True,  # another stage must not keep this one's pipe open
    )
    said = Said()
    reader = threading.Thread(target=_listen, args=(process.stdout, said, log), daemon=True)
    reader.start()
    return Child(process, reader, said)


def _listen(stdout: IO[bytes], said: Said, log: IO[bytes]) -> None:
    """Read the stage's events. A line that is not an event goes to the log."""
    with stdout:
        for line in stdout:
            try:
                said.hear(json.loads(line))
            except (ValueError, KeyError, AttributeError, TypeError):
                _write(log, line)


def _watch_child(
    child: Child,
    listener: Listener,
    grace_seconds: float,
    stall_seconds: float,
    watch_seconds: float,
) -> None:
    told = 0.0
    soon = min(PROGRESS_SECONDS, watch_seconds)
    while not child.ended:
        now = time.monotonic()
        if now - told >= (soon if child.said.progress else watch_seconds):
            told, reason = now, listener.hear(child.said.take_progress())
            if reason is not None:
                child.stop(reason, grace_seconds)
        patience = stall_seconds * (1 if child.said.stepped else STALLS_BEFORE_FIRST_STEP)
        if now - child.said.heard_at >= patience:
            child.stop("stalled", grace_seconds)
        if child.kill_at is not None and now >= child.kill_at:
            child.signal(signal.SIGKILL)
        child.reader.join(timeout=TICK_SECONDS)  # returns at once when the stage's output has ended
        if not child.reader.is_alive():
            time.sleep(TICK_SECONDS / 10)


def _outcome(stage: str, job: JobDir, child: Child, code: int, begun: int) -> Outcome:
    if code == 0 and (result := job.result(stage)) is not None:
        return Committed(result)
    if code == EXIT_FAILED and (error := child.said.error) is not None:
        return Failed(str(error.get("kind", "error")), str(error.get("message", "")))
    if child.stop_reason is not None:
        return Stopped(child.stop_reason)
    # The signal came from outside: a service manager that stops the worker, or a person. The stage
    # may not have set up its handlers yet.
    if code == EXIT_STOPPED or code in POLITE:
        return Stopped("shutdown")
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    place = crash_place(job.log_path(stage), begun) if code < 0 else None
    where = f" at {place}" if place else ""
    return Crashed(code, f"stage {stage} {how}{where}; see log/{stage}.log", place)


def crash_place(log: Path, begun: int) -> str | None:
    """Where Python was when native code crashed, from the trace that faulthandler wrote.

    Such as `load of ctypes/__init__.py:519`; None without a trace after the byte `begun`.
    """
    try:
        with log.open("rb") as file:
            file.seek(begun)
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    _, _, trace = text.rpartition("Current thread")
    found = TRACE_LINE.search(trace)
    if found is None:
        return None
    return f"{found['function']} of {'/'.join(Path(found['file']).parts[-2:])}:{found['line']}"


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
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {visible(text)}"
    _write(log, f"{line}\n".encode())


def _write(log: IO[bytes], line: bytes) -> None:
    """Write a line of the log. A full disk must not end the supervision of the stage."""
    try:
        log.write(line)
    except OSError as error:
        logger.warning("the stage's log cannot be written: %s", error)
