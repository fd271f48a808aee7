"""Shows the progress of a job on one line of standard error, in a terminal or a notebook."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress

BAR = 20  # characters
SHARES = 10  # lines a stage, where a line cannot be written again


class ProgressLine:
    """One line that is written again, with the time that its stage has taken.

    In a file, a line for each tenth of a stage.
    """

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._silent, self._clock = name, silent, clock
        self._stream = stream or sys.stderr
        self._again = self._stream.isatty() or _in_notebook()
        self._last: object = None
        self._width = 0
        self._shown: tuple[str, Progress | None] | None = None
        self._began = 0.0

    def show(self, stage: str, progress: Progress | None, seconds: float | None = None) -> None:
        """Show how far a stage is, and that it has run for `seconds`; else since first shown."""
        if seconds is not None:
            self._began = self._clock() - seconds
        elif self._shown is None or self._shown[0] != stage:
            self._began = self._clock()
        self._shown = stage, progress
        share = 0.0 if progress is None else min(1.0, progress.share)
        mark = stage if self._again else (stage, int(SHARES * share))
        parts = _parts(self._name, stage, share, progress)
        if self._again:
            parts.append(f"{_short(self._clock() - self._began)} so far")
        text = self._fitting(parts)
        if mark != self._last or self._again:
            self._last = mark
            self._write(text)

    def tick(self) -> None:
        """Show that a stage still runs, though it has reported nothing new."""
        if self._again and self._shown is not None:
            self.show(*self._shown)

    def note(self, text: str) -> None:
        """Show what the job waits for, once."""
        if text != self._last:
            self._last = text
            self._write(f"{self._name}: {text}")

    def end(self, text: str) -> None:
        """Show how it ended, and leave the line."""
        self._write(f"{self._name}: {text}")
        if self._again and not self._silent:
            print(file=self._stream)

    def _write(self, text: str) -> None:
        if self._silent:
            return
        if self._again:
            text = self._fitting([text])
            padded, self._width = text.ljust(self._width), len(text)
            print(f"\r{padded}", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)

    def _fitting(self, parts: list[str]) -> str:
        """The parts that a terminal's line holds. A line that wraps cannot be written again."""
        text = "  ".join(parts)
        if not self._stream.isatty():
            return text
        room = shutil.get_terminal_size().columns - 1
        while len(text) > room and len(parts) > 1:
            parts = parts[:-1]
            text = "  ".join(parts)
        return text[:room]


def _parts(name: str, stage: str, share: float, progress: Progress | None) -> list[str]:
    full = round(BAR * share)
    parts = [f"{name}: {STAGES.index(stage) + 1}/{len(STAGES)} {stage}"]
    parts.append(f"{'█' * full}{'░' * (BAR - full)} {100 * share:.0f} %")
    if progress is not None and progress.total:
        parts.append(f"{progress.step}/{progress.total}")
    if progress is not None and progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress is not None and progress.eta_seconds:
        parts.append(f"{_short(progress.eta_seconds)} left")
    return parts


def _short(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"
