"""Records each step of a training in history.jsonl and for TensorBoard."""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch.utils.tensorboard import SummaryWriter

VALIDATION = "validation_"  # prefix of the fields of a validation
RATE_STEPS = 20  # rates (tokens and clips a second) are averages over so many steps


class Taken(NamedTuple):
    """A step: when it ended, its tokens and clips, and the seconds it waited for its batches."""

    time: float
    tokens: int
    clips: int
    waited: float


class History:
    """The steps of a training. Those of earlier attempts are read from `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._board = SummaryWriter(str(path.parent / "tensorboard"))
        self._recent: list[Taken] = []
        self._losses: list[float] = []
        self._newest: dict[str, float] = {}
        self._end = 0  # where the newest row begins in the file
        for line in path.read_text("utf-8").splitlines(keepends=True):
            self._newest = json.loads(line)
            self._end = path.stat().st_size - len(line.encode())
            self._losses.append(self._newest["loss"])
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
        self._losses.append(loss)
        self._newest = {"step": step, **fields}
        with self.path.open("a", encoding="utf-8") as file:
            self._end = file.tell()
            file.write(json.dumps(self._newest) + "\n")
        self._draw(step, fields)
        return fields, seconds / len(steps)

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
        self._recent = [it._replace(time=it.time + seconds) for it in self._recent]

    def close(self) -> None:
        with suppress(OSError):
            self._board.close()

    def final_loss(self) -> float:
        """Mean loss over the last tenth of the steps."""
        last = self._losses[-max(1, len(self._losses) // 10) :]
        return sum(last) / len(last)

    def _draw(self, step: int, fields: dict[str, float]) -> None:
        for name, value in fields.items():
            validation = name.removeprefix(VALIDATION)
            tag = f"train/{name}" if validation == name else f"validation/{validation}"
            self._board.add_scalar(tag, value, step)
