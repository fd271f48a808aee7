"""How progress is shown: as bars on a terminal, else as lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from lorajob.cli.format import console, duration, progress_words

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lorajob.worker.records.record import JobRecord, StageRecord

LINE_SHARE = 0.1  # share of a stage between two lines about its progress


class View(Protocol):
    """Shows a job's record each time it is updated."""

    def update(self, record: "JobRecord") -> None: ...

    def note(self, line: str) -> None: ...


@contextmanager
def open_view(stream: TextIO, record: "JobRecord") -> Iterator[View]:
    """A view with bars if `stream` is a terminal, else with lines."""
    if not stream.isatty():
        yield LineView(stream)
        return
    with _bars(stream) as progress:
        yield BarView(progress, record)


class LineView:
    """Prints a line at each change of state, and at about every tenth of a stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._states: dict[str, str] = {}
        self._shares: dict[str, float] = {}

    def update(self, record: "JobRecord") -> None:
        for name, stage in record.stages.items():
            state = _described(stage)
            if self._states.get(name, "waiting") != state:
                self._states[name] = state
                self._shares[name] = 0.0
                self.note(f"{record.id} {name}: {state}")
            share = _share(stage)
            if stage.state == "running" and share - self._shares.get(name, 0.0) >= LINE_SHARE:
                self._shares[name] = share
                self.note(f"{record.id} {name}: {progress_words(stage.progress)}")

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class BarView:
    """Shows a bar for each stage, with loss and eta."""

    def __init__(self, progress: "Progress", record: "JobRecord") -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {
            name: progress.add_task(name, total=1, words="") for name in record.stages
        }

    def update(self, record: "JobRecord") -> None:
        for name, stage in record.stages.items():
            words = progress_words(stage.progress) if stage.state == "running" else ""
            # Until the first step is reported, the total is None and the bar only pulses.
            total = None if stage.state == "running" and not words else 1
            completed = 1.0 if stage.state == "succeeded" else _share(stage)
            self._progress.update(
                self._bars[name],
                total=total,
                completed=completed,
                words=words or _described(stage),
            )

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False)


def _bars(stream: TextIO) -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[words]}", markup=False),
        console=console(stream),
    )


def _share(stage: "StageRecord") -> float:
    """How much of a stage is done, 0 to 1."""
    return stage.progress.share if stage.progress is not None else 0.0


def _described(stage: "StageRecord") -> str:
    """`running`, `running (attempt 2)`, `succeeded in 3 min`."""
    if stage.state == "running" and stage.attempts > 1:
        return f"running (attempt {stage.attempts})"
    if stage.state == "succeeded" and stage.started_at and stage.finished_at:
        return f"succeeded in {duration(stage.finished_at - stage.started_at)}"
    return stage.state
