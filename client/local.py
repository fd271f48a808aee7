"""Runs the four stages of a job on this machine, without Redis and workers."""

import hashlib
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import IO

from lorajob import errors
from lorajob.client.progress import ProgressLine
from lorajob.client.requests import PathOrUrl, check_places, load_settings, make_spec
from lorajob.client.results import Results
from lorajob.cores import share_cpu
from lorajob.errors import LorajobError, StageError, UsageError
from lorajob.job.jobdir import STAGES, JobDir, write_json
from lorajob.job.report import EXIT_FAILED, EXIT_STOPPED, Progress, Report
from lorajob.logs import quiet_libraries
from lorajob.spec import JobSpec
from lorajob.storage import places
from lorajob.storage.locations import Folder
from lorajob.tasks.job_glossary import copy_glossary, with_glossary
from lorajob.tasks.texts import copy_text, with_text

STOP_SECONDS = 60  # to save a checkpoint
TICK_SECONDS = 1.0  # between two looks at the clock, while a stage is quiet


class LocalResults(Results):
    """The results of a job that was trained here, in `folder`."""

    def __init__(self, folder: JobDir) -> None:
        super().__init__(folder.root.name)
        self.folder = folder.root
        self._job = folder

    @property
    def _advice(self) -> str:
        return f"train_locally(..., folder={str(self.folder)!r}) continues it"

    @contextmanager
    def _open(self, *stages: str) -> Iterator[JobDir]:
        yield self._job


def train_locally(
    language: str,
    corpus: PathOrUrl | None = None,
    base_model: PathOrUrl | None = None,
    *,
    folder: PathOrUrl | None = None,
    preset: str = "default",
    sets: Iterable[str] = (),
    progress: bool = True,
    in_process: bool = False,
    stages: Sequence[str] = STAGES,
    **settings: object,
) -> LocalResults:
    """Run the four stages of a job here and return its results. Needs no service.

    The arguments are those of `submit`. The files go to `folder`; without it, to a folder below
    LORAJOB_HOME that follows from the settings. The same call again continues what was
    interrupted, from the newest checkpoint, and returns at once if all is done.

    Each stage runs in a process of its own, which gives its memory back; with `in_process`, all
    run in this one. `stages` runs only these, in the usual order. Ctrl-C stops the stage after a
    checkpoint. Raises the errors of the stages, and UsageError if `folder` has a job with other
    settings.
    """
    if unknown := [name for name in stages if name not in STAGES]:
        raise UsageError(f"stages: {unknown[0]!r} is not allowed; allowed: {', '.join(STAGES)}")
    spec = make_spec(load_settings(), language, corpus, base_model, preset, sets, settings)
    if spec.start.job is not None:
        raise UsageError("start.job: only a job of a service starts from another one's adapter")
    spec = with_glossary(with_text(spec))
    job = JobDir(Path(folder).expanduser().resolve() if folder is not None else _usual(spec))
    _prepare(job, spec)
    name = job.root.name
    line = ProgressLine(name, silent=not progress)
    for stage in STAGES:
        if stage in stages and job.result(stage) is None:
            line.show(stage, None)
            run = _run_here if in_process else _run_child
            run(stage, job, line)
    left = [name for name in STAGES if job.result(name) is None]
    line.end(f"{', '.join(left)} not run yet" if left else "succeeded")
    return LocalResults(job)


def _usual(spec: JobSpec) -> Path:
    values = json.dumps(spec.model_dump(mode="json"), sort_keys=True).encode()
    digest = hashlib.sha256(values).hexdigest()[:8]
    return places.home() / "local" / f"{spec.language.lower()}-{digest}"


def _prepare(job: JobDir, spec: JobSpec) -> None:
    """Write spec.json. Raises UsageError if the folder holds something else."""
    wanted = spec.model_dump(mode="json")
    if job.spec_path.is_file():
        have = JobSpec.load(job.spec_path).model_dump(mode="json")
        other = [name for name in wanted if have.get(name) != wanted[name]]
        if other:
            raise UsageError(
                f"folder: {job.root} has a job with other settings ({', '.join(other)}); "
                "name another folder"
            )
        return
    if job.root.is_dir() and any(job.root.iterdir()):
        raise UsageError(f"folder: {job.root} is not empty and has no job; name another folder")
    check_places(spec)
    job.root.mkdir(parents=True, exist_ok=True)
    copy_text(spec, Folder(job.root))
    copy_glossary(spec, Folder(job.root))
    write_json(job.spec_path, wanted)


class _Heard(StringIO):
    """Hears the events of a stage that runs in this process."""

    def __init__(self, stage: str, line: ProgressLine) -> None:
        super().__init__()
        self._stage, self._line = stage, line

    def write(self, text: str) -> int:
        _hear(text, self._stage, self._line)
        return len(text)


def _run_here(stage: str, job: JobDir, line: ProgressLine) -> None:
    # Must come before torch is loaded.
    share_cpu(os.environ)
    # Imported by name: it loads torch, which a child process would not need here.
    run_stage = importlib.import_module("lorajob.stage").run_stage
    with quiet_libraries():
        run_stage(stage, job, job.last_attempt(stage) + 1, Report(stage, _Heard(stage, line)))


def _run_child(stage: str, job: JobDir, line: ProgressLine) -> None:
    log = job.log_path(stage)
    log.parent.mkdir(exist_ok=True)
    command = _command(stage, job, job.last_attempt(stage) + 1)
    with (
        log.open("ab") as errors_to,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # it closes with this process, and then the stage ends
            stdout=subprocess.PIPE,
            stderr=errors_to,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for this process, which stops the stage
        ) as child,
    ):
        try:
            said = _follow(child.stdout, stage, line)
            code = child.wait()
        # Ctrl-C, too, must stop the stage, which does not get it.
        except BaseException:
            _stop(child)
            print(f"\nlorajob: stopped; the same call again continues {job.root}", file=sys.stderr)
            raise
    if code == 0:
        return
    kind, message = said
    if code in (EXIT_FAILED, EXIT_STOPPED) and message:
        raise _error_of(kind)(message)
    raise StageError(f"stage {stage} broke with exit code {code}; {log} says why")


def _command(stage: str, job: JobDir, attempt: int) -> list[str]:
    called = [sys.executable, "-m", "lorajob.stage", stage, str(job.root)]
    return [*called, "--attempt", str(attempt), "--supervised"]


def _stop(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _follow(events: IO[str] | None, stage: str, line: ProgressLine) -> tuple[str, str]:
    """Hear a stage to its end. Returns kind and message of its error."""
    found = ("", "")
    for text in _ticking(events, line):
        event = _hear(text, stage, line)
        if event.get("event") == "error":
            found = str(event.get("kind")), str(event.get("message"))
    return found


def _ticking(events: IO[str] | None, line: ProgressLine) -> Iterator[str]:
    """The events as they come; the line's clock goes on between them."""
    heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for text in events or ():
            heard.put(text)
        heard.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while True:
        try:
            text = heard.get(timeout=TICK_SECONDS)
        except queue.Empty:
            line.tick()
            continue
        if text is None:
            return
        yield text


def _hear(text: str, stage: str, line: ProgressLine) -> dict[str, object]:
    try:
        event: dict[str, object] = json.loads(text)
    except ValueError:  # a library has printed
        return {}
    if isinstance(event, dict) and event.get("event") == "progress":
        line.show(stage, Progress.model_validate(event))
    return event if isinstance(event, dict) else {}


def _error_of(kind: str) -> type[LorajobError]:
    """The class of errors of this kind."""
    classes = [it for it in vars(errors).values() if isinstance(it, type)]
    known = {it.kind: it for it in classes if issubclass(it, LorajobError)}
    return known.get(kind, LorajobError)
