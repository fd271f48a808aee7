"""How progress is shown: as bars on a terminal, else as lines."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from lorajob.cli.format import console
from lorajob.tasks.words import duration, progress_words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from lorajob.worker.records.record import JobRecord, StageRecord

LINE_SHARE = 0.1  # share of a stage between two lines about its progress
LINE_SECONDS = 120.0  # longest time between two lines about a running stage
QUIET_SECONDS = 10.0  # without a step, after which the time since the last one is shown

NAME_WIDTH = 10
LONGEST_BAR, SHORTEST_BAR = 30, 8
WORDS_WIDTH = 50  # kept for the words beside a bar that is longer than the shortest
DISPENSABLE = ("running ", "loss ", "eta ")  # the first words to leave out of a narrow line


class Signs:
    """When each stage was last seen to make progress, by this process's clock.

    `now` gives the seconds since the epoch.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._now = now
        self._seen: dict[str, tuple[object, float]] = {}

    def words(self, name: str, stage: "StageRecord") -> str:
        """`running 12 min, last step 40 s ago` for a running stage that was quiet so long."""
        now = self._clock()
        mark = (stage.attempts, stage.progress)
        before = self._seen.get(name)
        if before is None or before[0] != mark:
            self._seen[name] = before = (mark, now)
        words = []
        if stage.started_at:
            words.append(f"running {duration(self._now() - stage.started_at)}")
        if (quiet := now - before[1]) >= QUIET_SECONDS:
            begun = stage.progress is not None
            words.append(f"last step {duration(quiet)} ago" if begun else "no step yet")
        return ", ".join(words)


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
    with bars(console(stream)) as progress:
        yield BarView(progress, record)


class LineView:
    """Prints a line at each change of state, and at about every tenth of a stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._states: dict[str, str] = {}
        self._shares: dict[str, float] = {}
        self._signs = Signs()
        self._told = time.monotonic()

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
            elif stage.state == "running":
                signs = self._signs.words(name, stage)
                if time.monotonic() - self._told >= LINE_SECONDS:
                    told = ", ".join(it for it in (progress_words(stage.progress), signs) if it)
                    self.note(f"{record.id} {name}: {told}")

    def note(self, line: str) -> None:
        self._told = time.monotonic()
        print(line, file=self._stream, flush=True)


class BarView:
    """Shows a bar for each stage, with loss and eta."""

    def __init__(
        self, progress: "Progress", record: "JobRecord", signs: Signs | None = None
    ) -> None:
        self._progress = progress
        self._signs = signs or Signs()
        width = progress.console.width
        self._room = width - NAME_WIDTH - _bar_width(width) - 2
        self._bars: dict[str, TaskID] = {
            name: progress.add_task(name, total=1, words="") for name in record.stages
        }

    def update(self, record: "JobRecord") -> None:
        for name, stage in record.stages.items():
            words = progress_words(stage.progress) if stage.state == "running" else ""
            # Until the first step is reported, the total is None and the bar only pulses.
            total = None if stage.state == "running" and not words else 1
            completed = 1.0 if stage.state == "succeeded" else _share(stage)
            if stage.state == "running":
                again = f"attempt {stage.attempts}" if stage.attempts > 1 and not words else ""
                parts = [words or again, self._signs.words(name, stage)]
                shown = fitting(parts, self._room) or _described(stage)
            else:
                shown = _described(stage)
            self._progress.update(
                self._bars[name],
                total=total,
                completed=completed,
                words=shown,
            )

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False)


def bars(screen: "Console") -> "Progress":
    """Bars with words beside them, as BarView fills them in."""
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn(f"{{task.description:{NAME_WIDTH}}}"),
        # With a width of its own a bar keeps its length when the words change.
        BarColumn(bar_width=_bar_width(screen.width)),
        TextColumn("{task.fields[words]}", markup=False),
        console=screen,
    )


def _bar_width(width: int) -> int:
    """The length of the bars on a screen of this width."""
    return min(LONGEST_BAR, max(SHORTEST_BAR, width - NAME_WIDTH - WORDS_WIDTH - 2))


def fitting(parts: Iterable[str], width: int) -> str:
    """The parts with commas between them. Too long, they lose their least important words."""
    words = [word for part in parts if part for word in part.split(", ")]
    for kind in DISPENSABLE:
        if len(", ".join(words)) <= width:
            break
        words = [word for word in words if not word.startswith(kind)] or words
    return ", ".join(words)


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
