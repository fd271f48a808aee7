"""Compares finished jobs on the test clips that all of them have."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import UsageError
from lorajob.job.results import Metric, Scores
from lorajob.languages import find_language
from lorajob.reporting.charts import RATE_TITLES, VegaLite, bars_with_intervals
from lorajob.reporting.compare import Change, compare_counts, verdict
from lorajob.reporting.findings import Findings, ScoredClip, ScoredTranscript
from lorajob.reporting.html import fill, write_page
from lorajob.speech.scoring import METRICS, interval, score
from lorajob.storage.urls import public, public_spec

MOST_CLIPS = 100  # on a page, those that differ most


@dataclass(frozen=True)
class JobRow:
    """A job of a comparison. `change` compares it with the first job; None for that job."""

    job: str
    base: str
    corpus: str
    model: str  # which of the job's models was compared: tuned or delivered
    scores: Scores  # on the common clips
    interval: tuple[float, float] | None  # of `wer`, 95 %; None for a single clip
    cer_interval: tuple[float, float] | None
    change: Change | None

    def interval_of(self, metric: Metric) -> tuple[float, float] | None:
        """The 95 % interval of an error rate; None for a single clip."""
        return self.interval if metric == "wer" else self.cer_interval


@dataclass(frozen=True)
class CommonClip:
    """A clip that all jobs have transcribed, in the order of the jobs."""

    id: str
    reference: str
    heard: list[ScoredTranscript]

    def gap(self, metric: Metric) -> int:
        """Errors of the worst job over the best one, in words or characters."""
        errors = [heard.counts(metric).errors for heard in self.heard]
        return max(errors) - min(errors)


@dataclass(frozen=True)
class Comparison:
    """Jobs on the clips they have in common."""

    rows: list[JobRow]
    clips: list[CommonClip]
    left_out: dict[str, int]  # job -> its clips that were not compared
    left_out_reasons: list[tuple[str, str, int]]  # job, reason, clips; only those above zero
    settings: list[tuple[str, list[object]]]  # name, value of each job
    metrics: tuple[Metric, Metric]  # both error rates, that of the language first

    @property
    def metric(self) -> Metric:
        """The error rate of the language."""
        return self.metrics[0]

    @property
    def unit(self) -> str:
        """What the error rate of the language counts."""
        return "word" if self.metric == "wer" else "character"

    def widest(self, most: int) -> list[CommonClip]:
        """The clips on which the jobs differ, those that differ most first, at most `most`."""
        gaps = {place: clip.gap(self.metric) for place, clip in enumerate(self.clips)}
        places = sorted(gaps, key=lambda it: (-gaps[it], self.clips[it].id))
        return [self.clips[it] for it in places[:most] if gaps[it]]

    def as_json(self) -> dict[str, object]:
        """The figures for scripts. `change` is against the first job."""
        return {
            "clips": len(self.clips),
            "metric": self.metric,
            "left_out": self.left_out,
            "left_out_reasons": [
                {"job": job, "reason": reason, "clips": clips}
                for job, reason, clips in self.left_out_reasons
            ],
            "jobs": [
                {
                    "job": row.job,
                    "base_model": row.base,
                    "corpus": row.corpus,
                    "model": row.model,
                    "scores": row.scores.model_dump(),
                    "interval": row.interval and list(row.interval),
                    "cer_interval": row.cer_interval and list(row.cer_interval),
                    "change": row.change
                    and {
                        "fewer_errors": row.change.fewer,
                        "interval": row.change.interval and list(row.change.interval),
                        "certain": row.change.certain,
                    },
                }
                for row in self.rows
            ],
            "settings": {name: values for name, values in self.settings},
        }


def compare_jobs(jobs: Sequence[Findings]) -> Comparison:
    """Compare jobs on their common clips: same id, same reference.

    Raises UsageError for jobs of different languages or without common clips.
    """
    languages = sorted({job.language.code for job in jobs})
    if len(languages) > 1:
        raise UsageError(f"JOB: the jobs have different languages: {', '.join(languages)}")
    (language,) = languages
    found = [_by_clip(job) for job in jobs]
    common = [key for key in found[0] if all(key in clips for clips in found)]
    if not common:
        raise UsageError("JOB: the jobs have no test clip in common")
    heard = [
        [clips[key].heard[job.after] for key in common]
        for job, clips in zip(jobs, found, strict=True)
    ]
    references = [reference for _, reference in common]
    speakers = [found[0][key].speaker for key in common]
    metric, seed = jobs[0].metric, jobs[0].spec.seed
    rows = []
    for number, (job, ours) in enumerate(zip(jobs, heard, strict=True)):
        texts = [it.text for it in ours]
        change = None
        if number:
            before = [it.counts(metric) for it in heard[0]]
            change = compare_counts(before, [it.counts(metric) for it in ours], speakers, seed)
        words, characters = (
            interval(references, texts, it, seed=seed, language=language, speakers=speakers)
            if len(texts) > 1
            else None
            for it in METRICS
        )
        rows.append(
            JobRow(
                job.job,
                public(job.spec.base_model),
                public(job.spec.corpus),
                job.after,
                score(references, texts, language),
                words,
                characters,
                change,
            )
        )
    return Comparison(
        rows,
        [
            CommonClip(name, reference, [ours[place] for ours in heard])
            for place, (name, reference) in enumerate(common)
        ],
        {job.job: len(job.clips) - len(common) for job in jobs},
        [
            (job.job, reason, count)
            for job, clips in zip(jobs, found, strict=True)
            for reason, count in _reasons(job, len(clips), len(common)).items()
            if count
        ],
        _settings(jobs),
        find_language(language).metrics,
    )


def _by_clip(job: Findings) -> dict[tuple[str, str], ScoredClip]:
    """(id, reference) -> clip, for the clips that the resulting model transcribed.

    A clip that occurs twice is left out, since its transcripts cannot be paired.
    """
    times = Counter((clip.id, clip.reference) for clip in job.clips)
    return {
        (clip.id, clip.reference): clip
        for clip in job.clips
        if job.after in clip.heard and times[clip.id, clip.reference] == 1
    }


def _reasons(job: Findings, usable: int, common: int) -> dict[str, int]:
    """Why clips of a job were not compared, and how many."""
    unheard = sum(job.after not in clip.heard for clip in job.clips)
    return {
        "another job lacks them, or has another reference text": usable - common,
        f"its {job.after} model did not transcribe them": unheard,
        "they occur twice": len(job.clips) - unheard - usable,
    }


def _settings(jobs: Sequence[Findings]) -> list[tuple[str, list[object]]]:
    """The settings that are not the same in all jobs."""
    flat = [_flat(public_spec(job.spec).model_dump(mode="json"), "") for job in jobs]
    names = dict.fromkeys(name for values in flat for name in values)
    rows = [(name, [values.get(name) for values in flat]) for name in names]
    return [(name, values) for name, values in rows if any(it != values[0] for it in values)]


def _flat(values: Mapping[str, object], prefix: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write a comparison as one HTML file."""
    page = fill(
        "compare.html",
        {"rates": comparison_chart(comparison)},
        comparison=comparison,
        clips=comparison.widest(MOST_CLIPS),
        verdicts=[
            verdict(row.change, comparison.unit) if row.change else "" for row in comparison.rows
        ],
    )
    write_page(path, page)


def comparison_chart(comparison: Comparison) -> VegaLite:
    """The error rates of the jobs, by the metric of their language, with intervals."""
    metric = comparison.metric
    rates = [
        (it.job, rate := it.scores.rate(metric), *(it.interval_of(metric) or (rate, rate)))
        for it in comparison.rows
    ]
    return bars_with_intervals(rates, RATE_TITLES[metric])
