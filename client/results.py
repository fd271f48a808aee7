"""What a finished job has left: error rates, page, model, transcripts."""

import json
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from lorajob.errors import StageError, UsageError
from lorajob.job.chain import chain_faults
from lorajob.job.jobdir import REPORT_FILES, JobDir
from lorajob.job.results import Scores
from lorajob.spec import JobSpec

if TYPE_CHECKING:
    from lorajob.reporting.comparison import Comparison
    from lorajob.speech.spoken import FileTranscript

AudioPath = str | os.PathLike[str]


class Results(ABC):
    """The results of one job. Each raises StageError if its stage has not finished yet."""

    def __init__(self, job_id: str) -> None:
        self.id = job_id
        self._held = ExitStack()
        self._folders: dict[tuple[str, ...], JobDir] = {}
        weakref.finalize(self, self._held.close)

    @abstractmethod
    def _open(self, *stages: str) -> AbstractContextManager[JobDir]:
        """The job's folder on this machine with the files of the finished `stages`."""

    def _folder(self, *stages: str) -> JobDir:
        """The same, kept as long as this object lives."""
        if stages not in self._folders:
            self._folders[stages] = self._held.enter_context(self._open(*stages))
        return self._folders[stages]

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json: `base`, `delivered`, `tuned`, each with `wer`, `cer` and
        their intervals in percent; `improvement`, `notes`, `warnings`.
        """
        with self._open("evaluate") as folder:
            self._require(folder, "evaluate")
            path = folder.stage_dir("evaluate") / "metrics.json"
            return dict(json.loads(path.read_text("utf-8")))

    @property
    def scores(self) -> Mapping[str, Scores]:
        """The error rates on the test clips by model: base, delivered, tuned."""
        found = self.metrics
        names = ("base", "delivered", "tuned")
        return {name: Scores.model_validate(found[name]) for name in names if found.get(name)}

    @property
    def report(self) -> Path:
        """The page about the job, one HTML file. It is drawn if the job has not drawn it."""
        job = self._folder()
        if self._fetch_page(job):
            return job.report_path
        folder = self._folder(*REPORT_FILES)
        self._require(folder, "evaluate")
        if not folder.report_path.is_file():
            from lorajob.reporting.page import write_report

            write_report(folder, folder.report_path)
        return folder.report_path

    @property
    def model(self) -> Path:
        """The folder of the converted model, for faster-whisper."""
        folder = self._folder("convert")
        result = folder.result("convert")
        if result is None or result.model is None:
            self._require(folder, "convert")
            raise StageError(f"{self.id}: has no model")
        return folder.root / result.model

    @property
    def adapter(self) -> Path:
        """The folder of the LoRA adapter, for PEFT."""
        folder = self._folder("train")
        self._require(folder, "train")
        return folder.stage_dir("train") / "adapter"

    @property
    def spec(self) -> JobSpec:
        """The settings of the job."""
        with self._open() as folder:
            return JobSpec.load(folder.spec_path)

    def utterances(self) -> Any:
        """A `pyarrow.Table` with a row for each test clip: id, seconds, reference, the text of
        each model, and its errors. `.to_pandas()` makes a DataFrame.

        Clips that only lorajob's decoder heard have null in `base` and `delivered`.
        """
        import pyarrow

        with self._open("evaluate") as folder:
            self._require(folder, "evaluate")
            path = folder.stage_dir("evaluate") / "utterances.jsonl"
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pyarrow.table({name: [row.get(name) for row in rows] for name in names})

    def compare(self, *others: "Results") -> "Comparison":
        """Compare this job with others of its language, on the test clips that all have.

        `rows` have the error rates. `change` of the others' rows is the paired difference to this
        job. Raises UsageError for jobs of other languages or without common clips.
        """
        from lorajob.reporting.comparison import compare_jobs
        from lorajob.reporting.findings import read_findings

        return compare_jobs([read_findings(it._folder(*REPORT_FILES)) for it in (self, *others)])

    @overload
    def transcribe(self, audio: AudioPath, words: bool = False) -> "FileTranscript": ...  # type: ignore[overload-overlap]

    @overload
    def transcribe(
        self, audio: Iterable[AudioPath], words: bool = False
    ) -> "list[FileTranscript]": ...

    def transcribe(
        self, audio: AudioPath | Iterable[AudioPath], words: bool = False
    ) -> "FileTranscript | list[FileTranscript]":
        """The transcript of a file, or of each of several files, of any length.

        They are decoded by this process as the test clips were (`tuned`). With `words`, passages
        have the times of their words. Raises CorpusError for a file that cannot be decoded.
        """
        one = isinstance(audio, str | os.PathLike)
        paths = [Path(audio)] if isinstance(audio, str | os.PathLike) else [Path(p) for p in audio]
        for path in paths:
            if not path.is_file():
                raise UsageError(f"audio: {path} is not a file")
        heard = list(self._hear(paths, words))
        return heard[0] if one else heard

    def _hear(self, paths: list[Path], words: bool) -> "Iterator[FileTranscript]":
        from lorajob.cores import share_cpu

        # Must come before the decoder is loaded.
        share_cpu(os.environ)
        from lorajob.decoding.config import read_config, usual_config
        from lorajob.transcribe import transcribe_files

        model = self.model
        folder = self._folder("convert")
        if fault := next(chain_faults(folder), None):
            raise StageError(f"{self.id}: {fault}; `lorajob verify {self.id}` names all faults")
        config = read_config(model) or usual_config(JobSpec.load(folder.spec_path))
        return transcribe_files(model, paths, config, words)

    def _fetch_page(self, folder: JobDir) -> bool:
        """Whether the job's own page is in the folder, after it was fetched if need be."""
        return folder.report_path.is_file()

    def _require(self, folder: JobDir, stage: str) -> None:
        if folder.result(stage) is None:
            raise StageError(f"{self.id}: stage {stage} has not finished; wait() follows the job")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"
