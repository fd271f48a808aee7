"""What a finished job has left: error rates, page, model, transcripts."""

import json
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from lorajob.client.glossaries import Terms, as_glossary
from lorajob.cores import share_cpu
from lorajob.errors import CorpusError, StageError, UsageError
from lorajob.job.chain import chain_faults
from lorajob.job.jobdir import REPORT_FILES, JobDir, write_whole
from lorajob.job.results import Scores
from lorajob.spec import JobSpec

if TYPE_CHECKING:
    from lorajob.decoding.config import DecodeConfig
    from lorajob.reporting.comparison import Comparison
    from lorajob.speech.spoken import FileTranscript

AudioPath = str | os.PathLike[str]


@dataclass(frozen=True)
class OpenedModel:
    """A model in CTranslate2's format, and how it is decoded."""

    folder: Path
    config: "DecodeConfig"

    def hear(
        self,
        paths: Iterable[Path],
        words: bool = False,
        unreadable: Callable[[CorpusError], None] | None = None,
        done: Callable[[float], None] = lambda files: None,
        glossary: Terms | None = None,
    ) -> "Iterator[FileTranscript]":
        """The transcripts of audio files of any length, in their order.

        With `words`, they have the times of words. Terms of the `glossary` are written where the
        audio allows them; each may have a tab and how it sounds behind it. `unreadable` hears of
        files that cannot be decoded, which are left out; without it, CorpusError is raised. `done`
        hears how many files are decoded, with fractions.
        """
        from lorajob.transcribe import transcribe_files

        terms = None if glossary is None else as_glossary(glossary)
        return transcribe_files(self.folder, paths, self.config, words, unreadable, done, terms)


def _base_of(spec: JobSpec, folder: JobDir) -> Path:
    """The job's base model in the type of its converted model. It is converted once."""
    from lorajob.whisper import ct2
    from lorajob.whisper.base_model import made_once
    from lorajob.whisper.identity import base_of

    found, kind = base_of(spec, folder), spec.convert.compute_types[0]

    def convert(target: Path) -> None:
        ct2.convert(found.folder, target, kind)

    return made_once(f"base-{found.sha256[:12]}-{kind}", convert)


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

    def files(self, *stages: str) -> AbstractContextManager[JobDir]:
        """The job's folder on this machine while the block runs, with the files of `stages`.

        If jobs are in a store, they are downloaded. `preprocess/test` stands for the files whose
        names start with `test`. Raises JobNotFoundError.
        """
        return self._open(*stages)

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
        path = self._folder().report_path
        if not path.is_file():
            self.write_report(path)
        return path

    def write_report(self, path: AudioPath, full: bool = False) -> Path:
        """Write the page about the job to `path`. With `full`, it has every test clip, with sound.

        Raises StageError before the evaluation has finished.
        """
        target = Path(path)
        # A finished job has drawn it. Then nothing else of the job is read or downloaded.
        drawn = None if full else self._page()
        if drawn is not None:
            write_whole(target, drawn)
            return target
        from lorajob.reporting.page import write_report

        with self._open(*REPORT_FILES) as folder:
            self._require_rates(folder)
            write_report(folder, target, full)
        return target

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
            rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pyarrow.table({name: [row.get(name) for row in rows] for name in names})

    def compare(self, *others: "Results") -> "Comparison":
        """Compare this job with others of its language, on the test clips that all have.

        `rows` have the error rates. `change` of the others' rows is the paired difference to this
        job. Raises UsageError for jobs of other languages or without common clips.
        """
        from lorajob.reporting.comparison import compare_jobs
        from lorajob.reporting.findings import read_findings

        found = []
        for it in (self, *others):
            with it._open(*REPORT_FILES) as folder:
                it._require_rates(folder)
                found.append(read_findings(folder))
        return compare_jobs(found)

    # A str is an Iterable of str, too. The first signature that fits is used.
    @overload
    def transcribe(  # type: ignore[overload-overlap]
        self, audio: AudioPath, words: bool = False, glossary: Terms | None = None
    ) -> "FileTranscript": ...

    @overload
    def transcribe(
        self, audio: Iterable[AudioPath], words: bool = False, glossary: Terms | None = None
    ) -> "list[FileTranscript]": ...

    def transcribe(
        self,
        audio: AudioPath | Iterable[AudioPath],
        words: bool = False,
        glossary: Terms | None = None,
    ) -> "FileTranscript | list[FileTranscript]":
        """The transcript of a file, or of each of several files, of any length.

        They are decoded by this process as the test clips were (`tuned`). With `words`, passages
        have the times of their words. Terms of the `glossary` are written where the audio allows
        them. Raises CorpusError for a file that cannot be decoded.
        """
        one = isinstance(audio, str | os.PathLike)
        paths = [Path(audio)] if isinstance(audio, str | os.PathLike) else [Path(p) for p in audio]
        for path in paths:
            if not path.is_file():
                raise UsageError(f"audio: {path} is not a file")
        heard = list(self.open_model().hear(paths, words, glossary=glossary))
        return heard[0] if one else heard

    def open_model(self, base: bool = False) -> "OpenedModel":
        """The converted model with the settings that its test clips were decoded with.

        With `base`, it is the job's base model, in the type of the converted one. Raises StageError
        for a job without a model, or with files that do not belong together.
        """
        # Must come before the decoder is loaded.
        share_cpu(os.environ)
        from lorajob.decoding.config import read_config, usual_config

        folder = self._folder("convert")
        result = folder.result("convert")
        if result is None or result.model is None:
            raise StageError(f"{self.id}: has no model yet; {self._advice}")
        if fault := next(chain_faults(folder), None):
            raise StageError(f"{self.id}: {fault}; `lorajob verify {self.id}` names all faults")
        model, spec = folder.root / result.model, JobSpec.load(folder.spec_path)
        config = read_config(model) or usual_config(spec)
        return OpenedModel(_base_of(spec, folder) if base else model, config)

    def _page(self) -> bytes | None:
        """The page that the job has drawn; None if it has not."""
        path = self._folder().report_path
        return path.read_bytes() if path.is_file() else None

    def _require_rates(self, folder: JobDir) -> None:
        if folder.result("evaluate") is None:
            raise StageError(f"{self.id}: has no error rates yet; {self._advice}")

    def _require(self, folder: JobDir, stage: str) -> None:
        if folder.result(stage) is None:
            raise StageError(f"{self.id}: stage {stage} has not finished; {self._advice}")

    @property
    def _advice(self) -> str:
        """What to do if a stage has not finished."""
        return f"`lorajob status {self.id}` shows its progress"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"
