"""Reads the files of a finished job and computes what its report shows."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lorajob.errors import StageError
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.job.results import PARTS, StageResult, verdict_of
from lorajob.languages import Language, find_language
from lorajob.reporting.compare import Change, compare_counts
from lorajob.reporting.curves import read_curves
from lorajob.reporting.words import (
    Counts,
    Edit,
    align,
    confused_characters,
    count_characters,
    count_words,
)
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.storage.urls import public_spec

LENGTHS = ((0, 2), (2, 4), (4, 6), (6, 10), (10, 20), (20, 31))  # seconds
MOST_SPEAKERS = 30  # in a chart
MOST = 20  # rows of a table of confusions


class SplitCounts(BaseModel, frozen=True):
    """What preprocessing kept of a set of clips."""

    clips: int
    hours: float
    speakers: int
    texts: int


class ReasonCount(BaseModel, frozen=True):
    """The clips that were dropped for one reason, and some of their ids."""

    clips: int
    examples: list[str] = []


class SharedCounts(BaseModel, frozen=True):
    """How many speakers and texts are in training and in the test set."""

    speakers: int = 0
    texts: int = 0


class CorpusCounts(BaseModel, frozen=True):
    """Those counts of report.json that a report shows. Empty if the file is missing."""

    splits: dict[str, SplitCounts] = {}
    dropped: dict[str, ReasonCount] = {}
    in_both: SharedCounts = SharedCounts()


class _Utterance(BaseModel, frozen=True):
    """A row of utterances.jsonl."""

    id: str
    seconds: float
    reference: str
    base: str | None = None
    tuned: str | None = None
    delivered: str | None = None


class _Scores(BaseModel, frozen=True):
    wer: float
    cer: float
    clips: int
    wer_interval: tuple[float, float] | None = None
    cer_interval: tuple[float, float] | None = None


class _WithGlossary(BaseModel, frozen=True):
    scores: _Scores


class _Metrics(BaseModel, frozen=True):
    """Those values of metrics.json that a report shows."""

    base: _Scores | None = None
    tuned: _Scores | None = None
    delivered: _Scores | None = None
    intervals: dict[str, tuple[float, float] | None] = {}
    unshared: dict[str, dict[str, _Scores]] = {}
    glossary: _WithGlossary | None = None


@dataclass(frozen=True)
class Rate:
    """An error rate in percent with its 95 % interval, if there is one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ModelRates:
    """The rates of one model, on `clips` test clips."""

    name: str
    wer: Rate
    cer: Rate
    clips: int


@dataclass(frozen=True)
class ScoredTranscript:
    """One model's transcript of a clip."""

    text: str
    edits: list[Edit]
    words: Counts
    characters: Counts

    def counts(self, metric: Literal["wer", "cer"]) -> Counts:
        return self.words if metric == "wer" else self.characters


@dataclass(frozen=True)
class ScoredClip:
    """A test clip with the transcripts of the models. `index` is its place in the clip store."""

    id: str
    index: int | None
    seconds: float
    speaker: str
    reference: str
    heard: dict[str, ScoredTranscript]

    def change(self, before: str, after: str, metric: Literal["wer", "cer"]) -> int:
        """How many errors fewer `after` has."""
        return self.heard[before].counts(metric).errors - self.heard[after].counts(metric).errors


@dataclass(frozen=True)
class Findings:
    """All that a report shows. `after` names the model that is the result."""

    job: str
    spec: JobSpec
    language: Language
    rates: list[ModelRates]
    unshared: list[ModelRates]  # on the test clips that share no speaker or sentence with training
    clips: list[ScoredClip]
    after: str
    change: Change | None
    curve: list[dict[str, float]]
    validation: list[dict[str, float]]
    corpus: CorpusCounts
    stages: dict[str, StageResult]
    warnings: list[str]
    with_glossary: list[ModelRates] = field(default_factory=list)  # empty without a glossary

    @property
    def metric(self) -> Literal["wer", "cer"]:
        return self.language.primary_metric

    @property
    def checked(self) -> StageResult | None:
        """The result with the verdict of the gate; None if the gate did not run."""
        return verdict_of(self.stages)

    @property
    def compared(self) -> list[ScoredClip]:
        """The clips that both the base and the resulting model transcribed."""
        return [clip for clip in self.clips if {"base", self.after} <= clip.heard.keys()]

    @property
    def transcribed(self) -> list[ScoredClip]:
        """The clips that the resulting model transcribed: the base, often only some of them."""
        return [clip for clip in self.clips if self.after in clip.heard]

    def rate_of(self, row: ModelRates) -> Rate:
        """The rate of a model by the metric of the language."""
        return row.wer if self.metric == "wer" else row.cer

    @property
    def more_speakers(self) -> bool:
        """Whether the clips have more speakers than `by_speaker` shows."""
        return len({clip.speaker for clip in self.compared if clip.speaker}) > MOST_SPEAKERS

    def kinds(self) -> list[dict[str, str | float]]:
        """Errors by kind, for 100 words (or characters) of the references."""
        rows: list[dict[str, str | float]] = []
        for model in ("base", self.after):
            counts = [clip.heard[model].counts(self.metric) for clip in self.compared]
            length = sum(it.length for it in counts) or 1
            for kind in ("substituted", "deleted", "inserted"):
                errors = sum(getattr(it, kind) for it in counts)
                rows.append({"model": model, "kind": kind, "errors": 100 * errors / length})
        return rows

    def by_length(self) -> list[dict[str, str | float]]:
        """The rate by the length of the clips, in percent."""
        rows: list[dict[str, str | float]] = []
        for low, high in LENGTHS:
            chosen = [clip for clip in self.compared if low <= clip.seconds < high]
            rows += self._rates(chosen, "length", f"{low} to {high} s")
        return rows

    def by_speaker(self) -> list[dict[str, str | float]]:
        """The rate of the speakers with most clips, in percent; empty if speakers are unknown."""
        speakers: dict[str, list[ScoredClip]] = defaultdict(list)
        for clip in self.compared:
            if clip.speaker:
                speakers[clip.speaker].append(clip)
        rows: list[dict[str, str | float]] = []
        for name, clips in sorted(speakers.items(), key=lambda it: (-len(it[1]), it[0]))[
            :MOST_SPEAKERS
        ]:
            rows += self._rates(clips, "speaker", name)
        return rows

    def _rates(
        self, clips: Sequence[ScoredClip], name: str, value: str
    ) -> list[dict[str, str | float]]:
        rows: list[dict[str, str | float]] = []
        for model in ("base", self.after):
            counts = [clip.heard[model].counts(self.metric) for clip in clips]
            if length := sum(it.length for it in counts):
                rate = 100 * sum(it.errors for it in counts) / length
                rows.append({name: value, "model": model, "rate": rate, "clips": len(clips)})
        return rows

    def confused_words(self) -> list[tuple[str, str, int]]:
        """(said, heard, times) of the resulting model, most frequent first. "" is no word."""
        pairs: Counter[tuple[str, str]] = Counter()
        for clip in self.transcribed:
            edits = clip.heard[self.after].edits
            pairs.update((it.said, it.heard) for it in edits if it.kind != "same")
        return [(said, heard, times) for (said, heard), times in pairs.most_common(MOST)]

    def confused_characters(self) -> list[tuple[str, str, int]]:
        """(said, heard, times) of the resulting model, most frequent first."""
        pairs: Counter[tuple[str, str]] = Counter()
        for clip in self.transcribed:
            text = clip.heard[self.after].text
            pairs += confused_characters(clip.reference, text, self.spec.language)
        return [(said, heard, times) for (said, heard), times in pairs.most_common(MOST)]

    def settings(self) -> list[tuple[str, object, object]]:
        """(name, value, default) of each setting that differs from its default. Urls are public."""
        return changed_settings(public_spec(self.spec))


def read_findings(job: JobDir) -> Findings:
    """The findings of a job whose evaluation has finished.

    Raises StageError if it has not, or if a file is damaged.
    """
    job.require("evaluate")
    spec = JobSpec.load(job.spec_path)
    stages = {name: result for name in STAGES if (result := job.result(name)) is not None}
    folder = job.stage_dir("evaluate")
    with _damage(folder / "metrics.json"):
        metrics = _Metrics.model_validate_json((folder / "metrics.json").read_bytes())
    with _damage(folder / "utterances.jsonl"):
        lines = (folder / "utterances.jsonl").read_bytes().splitlines()
        rows = [_Utterance.model_validate_json(line) for line in lines]
    clips = _read_clips(rows, job, spec.language)
    after = "delivered" if any("delivered" in clip.heard for clip in clips) else "tuned"
    language = find_language(spec.language)
    history = job.stage_dir("train") / "history.jsonl"
    with _damage(history):
        curves = read_curves(history)
    paired = [clip for clip in clips if {"base", after} <= clip.heard.keys()]
    change = compare_counts(
        [clip.heard["base"].counts(language.primary_metric) for clip in paired],
        [clip.heard[after].counts(language.primary_metric) for clip in paired],
        [clip.speaker for clip in paired],
        spec.seed,
    )
    return Findings(
        job.root.name,
        spec,
        language,
        _model_rates(metrics),
        _unshared_rates(metrics),
        clips,
        after,
        change,
        curves.steps,
        curves.validation,
        read_corpus(job.stage_dir("preprocess") / "report.json"),
        stages,
        [warning for result in stages.values() for warning in result.warnings],
        _glossary_rates(metrics),
    )


def _read_clips(rows: list[_Utterance], job: JobDir, language: str) -> list[ScoredClip]:
    places: dict[str, int] = {}
    speakers: list[str] = []
    if (job.stage_dir("preprocess") / "test").is_dir():
        store = ClipStore(job.stage_dir("preprocess") / "test")
        places = {name: place for place, name in enumerate(store.ids)}
        speakers = store.speakers
    clips = []
    for row in rows:
        place = places.get(row.id)
        heard = {}
        for model, text in (("base", row.base), ("tuned", row.tuned), ("delivered", row.delivered)):
            if text is not None:
                edits = align(row.reference, text, language)
                characters = count_characters(row.reference, text, language)
                heard[model] = ScoredTranscript(text, edits, count_words(edits), characters)
        speaker = "" if place is None else speakers[place]
        clips.append(ScoredClip(row.id, place, row.seconds, speaker, row.reference, heard))
    return clips


def _model_rates(metrics: _Metrics) -> list[ModelRates]:
    # In the order in which a report shows them.
    scores = {"base": metrics.base, "tuned": metrics.tuned, "delivered": metrics.delivered}
    rates = []
    for name, it in scores.items():
        if it is not None:
            # Jobs of older versions have no interval beside the scores.
            around = it.wer_interval or metrics.intervals.get(name) or (None, None)
            wer, cer = Rate(it.wer, *around), Rate(it.cer, *(it.cer_interval or (None, None)))
            rates.append(ModelRates(name, wer, cer, it.clips))
    return rates


def _glossary_rates(metrics: _Metrics) -> list[ModelRates]:
    if metrics.glossary is None:
        return []
    it = metrics.glossary.scores
    wer = Rate(it.wer, *(it.wer_interval or (None, None)))
    cer = Rate(it.cer, *(it.cer_interval or (None, None)))
    return [ModelRates("tuned with glossary", wer, cer, it.clips)]


def _unshared_rates(metrics: _Metrics) -> list[ModelRates]:
    rates = []
    for part, models in metrics.unshared.items():
        for name, it in models.items():
            shown = f"{name}, {PARTS.get(part, part)}"
            wer = Rate(it.wer, *(it.wer_interval or (None, None)))
            cer = Rate(it.cer, *(it.cer_interval or (None, None)))
            rates.append(ModelRates(shown, wer, cer, it.clips))
    return rates


def read_corpus(path: Path) -> CorpusCounts:
    """The counts of a report.json; empty if it is missing. Raises StageError if it is damaged."""
    if not path.is_file():
        return CorpusCounts()
    with _damage(path):
        return CorpusCounts.model_validate_json(path.read_bytes())


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn the errors of reading a file into StageError."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        where = f"{name}: " if name else ""
        raise StageError(f"{path} is damaged: {where}{first['msg']}") from None
    except OSError as error:
        raise StageError(f"{path} cannot be read: {error.strerror}") from None


def changed_settings(spec: JobSpec) -> list[tuple[str, object, object]]:
    """(name, value, default) of each setting that differs from its default."""
    return _differences(spec.model_dump(mode="json"), _defaults(spec), "")


def _defaults(spec: JobSpec) -> dict[str, object]:
    plain = JobSpec(language=spec.language, corpus=spec.corpus, base_model=spec.base_model)
    return plain.model_dump(mode="json")


def _differences(
    values: Mapping[str, object], defaults: Mapping[str, object], prefix: str
) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = []
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            found += _differences(value, default, f"{prefix}{name}.")
        elif value != default:
            found.append((f"{prefix}{name}", value, default))
    return found
