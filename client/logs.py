"""Reads the logs of a job, once or until it ends."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lorajob.job.jobdir import JobDir


def read_logs(
    folder: JobDir,
    stages: Sequence[str],
    refresh: Callable[[], None],
    ended: Callable[[], bool],
    pause: Callable[[], None],
) -> Iterator[str]:
    """Yield the text of the logs in `folder`, and new text until `ended` says that none will come.

    `refresh` brings the files up to date. When the job has ended, they are read once more, to their
    end.
    """
    reader = _LogReader(folder, stages)
    last = False
    while True:
        refresh()
        yield from reader.new_text()
        if last:
            return
        last = ended()
        if not last:
            pause()


class _LogReader:
    """Reads the text that was added to a job's logs since the last call."""

    def __init__(self, folder: JobDir, stages: Sequence[str]) -> None:
        self._paths = {stage: folder.log_path(stage) for stage in stages}
        self._read = dict.fromkeys(stages, 0)
        self._last: str | None = None

    def new_text(self) -> Iterator[str]:
        """Yield new text in the order of the stages, with a heading when the stage changes."""
        for stage, path in self._paths.items():
            text = self._gain(stage, path)
            if text:
                if self._last != stage and len(self._paths) > 1:
                    yield f"==> {stage} <==\n"
                self._last = stage
                yield text

    def _gain(self, stage: str, path: Path) -> str:
        try:
            with path.open("rb") as file:
                file.seek(self._read[stage])
                data = file.read()
        except FileNotFoundError:
            return ""
        self._read[stage] += len(data)
        return data.decode("utf-8", errors="replace")
