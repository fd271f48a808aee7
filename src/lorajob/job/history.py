"""The files of a training's history: one row of JSON a step.

The folder of an attempt has all rows in history.jsonl. A checkpoint has closed parts of ROWS rows
each, which never change again, in history-000001.jsonl and so on, and the other rows in
history.jsonl. So a new checkpoint links the closed parts of the one before instead of writing them.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

HISTORY = "history.jsonl"
PART = re.compile(r"history-\d{6}\.jsonl")
ROWS = 1000  # in a closed part; some 200 kB


@dataclass(frozen=True)
class Rows:
    """The history at one moment: where its closed parts end in the file, and the later rows."""

    path: Path
    ends: tuple[int, ...]  # in bytes
    open: bytes


def history_files(folder: Path) -> list[Path]:
    """The files of the history in a folder, in the order of their rows."""
    parts = sorted(path for path in folder.glob("history-*.jsonl") if PART.fullmatch(path.name))
    return [*parts, folder / HISTORY]


def read_history(folder: Path) -> bytes:
    """All rows of the history in a folder. Raises OSError."""
    return b"".join(path.read_bytes() for path in history_files(folder))


def write_history(folder: Path, rows: Rows, before: Path | None) -> None:
    """Write the history to a checkpoint's folder.

    Closed parts are links to those in `before`, an earlier checkpoint, where that is possible.
    """
    start = 0
    for number, end in enumerate(rows.ends, start=1):
        part = folder / f"history-{number:06}.jsonl"
        if before is None or not _linked(before / part.name, part, end - start):
            with rows.path.open("rb") as file:
                file.seek(start)
                part.write_bytes(file.read(end - start))
        start = end
    (folder / HISTORY).write_bytes(rows.open)


def _linked(source: Path, target: Path, size: int) -> bool:
    """Whether `target` could be made a link to `source`, which must have `size` bytes.

    Some file systems have no links. Another version of lorajob may close parts after other rows.
    """
    try:
        if source.stat().st_size != size:
            return False
        os.link(source, target)
    except OSError:
        return False
    return True
