"""Records each step of a training in history.jsonl, for TensorBoard and for trackers."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lorajob.job.history import ROWS, Rows
from lorajob.job.results import Scores
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore
from lorajob.training.trackers import Trackers, as_markdown, final_values, score_rows

VALIDATION = "validation_"  # prefix of the fields of a validation
SHOWN_CLIPS = 5  # whose sound and texts TensorBoard shows
LOG_SECONDS = 30.0  # least time between two lines of the log about steps
LOG_SHARE = 0.01  # least share of a training between them
RATE_STEPS = 20  # rates (tokens and clips a second) are averages over so many steps

log = logging.getLogger(__name__)


class Unread(NamedTuple):
    """A finished step. Its loss for each token is still on the device."""

    loss: Tensor
    rate: float
    tokens: int
    clips: int
    waited: float  # seconds that it waited for its batches


class Taken(NamedTuple):
    """A step: when it ended, its tokens and clips, and the seconds it waited for its batches."""

    time: float
    tokens: int
    clips: int
    waited: float


class StepLog:
    """Writes steps to the log: the first, the last, and at most a hundred between them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_step = self._next_time = 0.0

    def note(self, step: int, total: int, fields: Mapping[str, float], eta: float) -> None:
        """Write `step` of `total` if a line is due. `fields` are those of `History.add`."""
        now = self._clock()
        if step < total and (step < self._next_step or now < self._next_time):
            return
        self._next_step, self._next_time = step + LOG_SHARE * total, now + LOG_SECONDS
        log.info(
            "step %d of %d: loss %.3f, learning rate %.2g, %.1f clips a second, %s left",
            step,
            total,
            fields["loss"],
            fields["learning_rate"],
            fields["clips_per_second"],
            timedelta(seconds=round(eta)),
        )


class History:
    """The steps of a training. Those of earlier attempts are read from `path`."""

    def __init__(self, path: Path, trackers: Trackers | None = None) -> None:
        self.path = path
        self.log = StepLog()
        self._trackers = trackers
        self._board = SummaryWriter(str(path.parent / "tensorboard"))
        self._recent: list[Taken] = []
        self._losses: list[float] = []
        self._newest: dict[str, float] = {}
        self._end = 0  # where the newest row begins in the file
        self._ends: list[int] = []  # where the closed parts end in the file
        at = 0
        for line in path.read_bytes().splitlines(keepends=True):
            self._newest = json.loads(line)
            self._note_row(at, self._newest["loss"])
            at += len(line)
            row = dict(self._newest)
            self._draw(int(row.pop("step")), row)

    def begin(self, time: float) -> None:
        """Note that the next step begins at `time`, in monotonic seconds."""
        self._recent.append(Taken(time, 0, 0, 0.0))

    def add(
        self, step: int, loss: float, learning_rate: float, taken: Taken
    ) -> tuple[dict[str, float], float]:
        """Write a step. Returns the written fields and the average seconds of a step."""
        self._recent = [*self._recent[-RATE_STEPS:], taken]
        seconds = taken.time - self._recent[0].time
        steps = self._recent[1:]
        fields = {
            "loss": loss,
            "learning_rate": learning_rate,
            "tokens_per_second": sum(it.tokens for it in steps) / seconds,
            "clips_per_second": sum(it.clips for it in steps) / seconds,
            "waited_for_data": sum(it.waited for it in steps) / seconds,
        }
        self._newest = {"step": step, **fields}
        with self.path.open("a", encoding="utf-8") as file:
            self._note_row(file.tell(), loss)
            file.write(json.dumps(self._newest) + "\n")
        self._draw(step, fields)
        return fields, seconds / len(steps)

    def _note_row(self, begins: int, loss: float) -> None:
        if self._losses and len(self._losses) % ROWS == 0:
            self._ends.append(begins)
        self._end = begins
        self._losses.append(loss)

    def rows(self) -> Rows:
        """The rows so far, for a checkpoint. Only the newest row may still change."""
        with self.path.open("rb") as file:
            file.seek(self._ends[-1] if self._ends else 0)
            return Rows(self.path, tuple(self._ends), file.read())

    def add_to_newest(self, fields: dict[str, float], seconds: float) -> None:
        """Add fields to the newest step. Its rates leave out the `seconds` that this took."""
        if not self._newest:
            return
        self._newest |= fields
        with self.path.open("r+", encoding="utf-8") as file:
            file.seek(self._end)
            file.write(json.dumps(self._newest) + "\n")
            file.truncate()
        self._draw(int(self._newest["step"]), fields)
        self.leave_out(seconds)

    def shorten_first(self, seconds: float) -> None:
        """Count the first step as one of `seconds` in the rates of the next steps.

        What it waited for its batches counts at most so long.
        """
        newest = self._recent[-1]
        first = newest._replace(waited=min(newest.waited, seconds))
        self._recent = [Taken(first.time - seconds, 0, 0, 0.0), first]

    def leave_out(self, seconds: float) -> None:
        """Leave `seconds` since the newest step out of the rates of the next steps."""
        self._recent = [it._replace(time=it.time + seconds) for it in self._recent]

    def show_settings(self, settings: Mapping[str, object]) -> None:
        """Show the settings of the job in TensorBoard, as a table."""
        rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
        self._board.add_text("settings", f"| setting | value |\n| --- | --- |\n{rows}")

    def show_clips(self, store: ClipStore, clips: Sequence[int]) -> None:
        """Let TensorBoard play some of `clips`, with what is said in them."""
        for number, clip in enumerate(clips[:SHOWN_CLIPS], start=1):
            sound = torch.tensor(store.audio(clip))
            self._board.add_audio(f"clip {number}/sound", sound, sample_rate=SAMPLE_RATE)
            self._board.add_text(f"clip {number}/said", store.texts[clip])

    def show_heard(self, step: int, texts: Sequence[str]) -> None:
        """Log the transcripts of these clips after a step."""
        for number, text in enumerate(texts[:SHOWN_CLIPS], start=1):
            self._board.add_text(f"clip {number}/heard", text, step)

    def close(self) -> None:
        with suppress(OSError):
            self._board.close()

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return len(self._losses)

    def final_loss(self, steps: int | None = None) -> float:
        """Mean loss over the last tenth of the first `steps` steps, or of all."""
        losses = self._losses[:steps]
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last)

    def _draw(self, step: int, fields: dict[str, float]) -> None:
        tagged = {_tag(name): value for name, value in fields.items()}
        for tag, value in tagged.items():
            self._board.add_scalar(tag, value, step)
        if self._trackers is not None:
            self._trackers.log(step, tagged)


def write_table(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Write the final table for TensorBoard: error rates as text and as values."""
    rows = score_rows(scores)
    with SummaryWriter(str(folder)) as board:
        board.add_text("results", as_markdown(rows))
        for tag, value in final_values(rows).items():
            board.add_scalar(tag, value)


def _tag(name: str) -> str:
    """The name of a curve: train/loss, validation/wer."""
    validation = name.removeprefix(VALIDATION)
    return f"train/{name}" if validation == name else f"validation/{validation}"
