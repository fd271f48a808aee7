"""Shows the progress of a job on one line of standard error, in a terminal or a notebook."""

import sys
from typing import TextIO

from lorajob.job.jobdir import STAGES
from lorajob.job.report import Progress

BAR = 20  # characters
SHARES = 10  # lines a stage, where a line cannot be written again


class ProgressLine:
    """One line that is written again. In a file, a line for each tenth of a stage."""

    def __init__(self, name: str, stream: TextIO | None = None, silent: bool = False) -> None:
        self._name, self._silent = name, silent
        self._stream = stream or sys.stderr
        self._again = self._stream.isatty() or _in_notebook()
        self._last: object = None
        self._width = 0

    def show(self, stage: str, progress: Progress | None) -> None:
        """Show how far a stage is."""
        share = 0.0 if progress is None else min(1.0, progress.share)
        mark = stage if self._again else (stage, int(SHARES * share))
        text = _line(self._name, stage, share, progress)
        if mark != self._last or self._again:
            self._last = mark
            self._write(text)

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
            padded, self._width = text.ljust(self._width), len(text)
            print(f"\r{padded}", end="", file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)


def _line(name: str, stage: str, share: float, progress: Progress | None) -> str:
    full = round(BAR * share)
    parts = [f"{name}: {STAGES.index(stage) + 1}/{len(STAGES)} {stage}"]
    parts.append(f"{'█' * full}{'░' * (BAR - full)} {100 * share:.0f} %")
    if progress is not None and progress.total:
        parts.append(f"{progress.step}/{progress.total}")
    if progress is not None and progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress is not None and progress.eta_seconds:
        parts.append(f"{_short(progress.eta_seconds)} left")
    return "  ".join(parts)


def _short(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"
