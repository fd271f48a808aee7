"""Sends curves and results of a job to experiment trackers, through a process of their own.

The process runs `lorajob.training.tracker_main` with accelerate's trackers. It reads one JSON
object a line from standard input, and answers with one for each fault and note:

    {"do": "begin", "trackers": ["wandb"], "job": "hi-1a2b3c4d", "config": {...}, ...}
    {"do": "log", "step": 5, "values": {"train/loss": 2.1}}
    {"do": "table", "columns": [...], "rows": [[...]]}
    {"do": "file", "path": PATH}

The stage never waits for a tracker, except at the end, for a limited time. A tracker that is
missing, slow or broken is a warning.
"""

import importlib.util
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from lorajob.job.jobdir import JobDir
from lorajob.job.results import Scores
from lorajob.spec import JobSpec, Tracker
from lorajob.storage.urls import public_spec

COMMAND = (sys.executable, "-m", "lorajob.training.tracker_main")
END_SECONDS = 60.0  # for the last uploads of a stage that ended
STOPPED_SECONDS = 5.0  # of a stage that was stopped or failed
Row = list[str | int | float | None]
LEFT_SECONDS = 2.0  # for the process to say what it did not send
# What each needs to import. TensorBoard's files are always written, by the training itself.
PACKAGES: dict[Tracker, str] = {"wandb": "wandb", "mlflow": "mlflow"}
COLUMNS = ("model", "wer", "wer_low", "wer_high", "cer", "clips")
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}

log = logging.getLogger(__name__)


def missing_packages(names: Iterable[Tracker]) -> list[Tracker]:
    """Those of the trackers whose package is not installed here."""
    found = importlib.util.find_spec
    return [it for it in names if it in PACKAGES and found(PACKAGES[it]) is None]


def missing_text(name: Tracker) -> str:
    """What to do about a missing package."""
    return f"the package of {name} is not installed; `pip install 'lorajob[{name}]'` installs it"


class Trackers:
    """The trackers of one stage. Without any it does nothing. `faults` says what went wrong."""

    def __init__(
        self,
        spec: JobSpec,
        job: JobDir,
        command: Sequence[str] | None = None,
        resumed: bool = False,
    ) -> None:
        """Start the process, if `spec` names trackers. `resumed`: the run has its settings."""
        self.faults: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        wanted = [it for it in dict.fromkeys(spec.trackers) if it in PACKAGES]
        missing = missing_packages(wanted)
        for name in missing:
            self._fail(name, missing_text(name))
        names = [it for it in wanted if it not in missing]
        if not names:
            return
        try:
            self._process = subprocess.Popen(
                command or COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | NO_GPU,
                # A stop of the stage must not cut its last uploads. The process ends with its
                # standard input.
                start_new_session=True,
            )
        except OSError as error:
            self._fail(", ".join(names), f"its process did not start: {error.strerror}")
            return
        self._writer = threading.Thread(target=self._write, args=(self._process.stdin,))
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,))
        for thread in (self._writer, self._reader):
            thread.daemon = True
            thread.start()
        config = {} if resumed else flat_settings(spec)
        self._tell(
            do="begin",
            trackers=names,
            job=job.root.name,
            language=spec.language,
            config=config,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send values of a step. Returns at once."""
        self._tell(do="log", step=step, values=dict(values))

    def table(self, scores: Mapping[str, Scores]) -> None:
        """Send the final table: the error rates of each model."""
        self._tell(do="table", columns=list(COLUMNS), rows=score_rows(scores))

    def file(self, path: os.PathLike[str]) -> None:
        """Send a file as an artifact. It must stay until `close`."""
        self._tell(do="file", path=os.fspath(path))

    def close(self, seconds: float = END_SECONDS) -> list[str]:
        """Send what is left, for at most `seconds`, and end the process. Returns all faults."""
        process = self._process
        if process is None:
            return self.faults
        self._process = None
        self._lines.put(json.dumps({"do": "end", "seconds": seconds}).encode() + b"\n")
        self._lines.put(None)
        try:
            code = process.wait(seconds + LEFT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = 0
            self._fail("trackers", f"did not end within {seconds:.0f} s; what was left is lost")
        self._reader.join(LEFT_SECONDS)
        if code != 0:
            self._fail("trackers", f"their process ended with code {code}")
        return self.faults

    def _tell(self, **message: object) -> None:
        if self._process is not None:
            self._lines.put(json.dumps(message).encode() + b"\n")

    def _write(self, stream: IO[bytes]) -> None:
        try:
            with stream:
                while (line := self._lines.get()) is not None:
                    stream.write(line)
                    stream.flush()
        # The process ended before; its exit code tells.
        except OSError:
            log.debug("the process of the trackers reads no more")

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                said = json.loads(line)
                if "fault" in said:
                    self._fail(said["tracker"], said["fault"])
                else:
                    log.info("tracker %s: %s", said["tracker"], said["note"])

    def _fail(self, name: str, why: str) -> None:
        self.faults.append(f"tracker {name}: {why}")
        log.warning("tracker %s: %s; the job goes on", name, why)


@contextmanager
def tracked(spec: JobSpec, job: JobDir) -> Iterator[Trackers]:
    """The trackers of a training. A training that fails or is stopped hardly waits for them."""
    trackers = Trackers(spec, job)
    try:
        yield trackers
    except BaseException:
        trackers.close(STOPPED_SECONDS)
        raise
    trackers.close()


def send_results(spec: JobSpec, job: JobDir) -> None:
    """Send the final table and the report of a finished job to its trackers."""
    evaluated = job.result("evaluate")
    if evaluated is None or not set(spec.trackers) & PACKAGES.keys():
        return
    trackers = Trackers(spec, job, resumed=True)
    trackers.table(evaluated.scores)
    if job.report_path.is_file():
        trackers.file(job.report_path)
    trackers.close()


def score_rows(scores: Mapping[str, Scores]) -> list[Row]:
    """One row of COLUMNS for each model, rates in percent."""
    rows: list[Row] = []
    for name, it in scores.items():
        low, high = it.wer_interval or (None, None)
        rows.append([name, it.wer, low, high, it.cer, it.clips])
    return rows


def final_values(rows: Iterable[Row]) -> dict[str, float]:
    """The final table as single values, such as final/delivered_wer."""
    return {
        f"final/{row[0]}_{column}": float(value)
        for row in rows
        for column, value in zip(COLUMNS[1:], row[1:], strict=True)
        if value is not None
    }


def as_markdown(rows: Iterable[Row]) -> str:
    """The final table in Markdown."""
    shown = (["" if it is None else str(it) for it in row] for row in rows)
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *shown]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def flat_settings(spec: JobSpec) -> dict[str, str | float | bool | None]:
    """All settings by their names, such as train.rank. Lists are JSON; urls have no secrets."""
    flat: dict[str, str | float | bool | None] = {}

    def add(name: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{name}.{key}" if name else key, inner)
        elif value is None or isinstance(value, str | float | bool | int):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, ensure_ascii=False)

    add("", public_spec(spec).model_dump(mode="json"))
    return flat
