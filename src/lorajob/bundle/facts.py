"""The facts about a job in a bundle: base model on the Hub, gate, error rates, corpus.

Nothing here names a folder of this machine.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lorajob.corpora import hub as hub_corpus
from lorajob.corpora import mdc
from lorajob.demo.packaged import PACKAGED_NAME
from lorajob.errors import LorajobError, UsageError
from lorajob.job.chain import finished_stages
from lorajob.job.jobdir import JobDir
from lorajob.job.results import (
    Guard,
    Metric,
    Scores,
    StageResult,
    gate_words,
    unchecked,
    verdict_of,
)
from lorajob.languages import Language, find_language
from lorajob.spec import JobSpec
from lorajob.storage.hub import HUB_ID
from lorajob.storage.urls import local_path, public
from lorajob.visible import visible

PACKAGED_HUB_ID = "openai/whisper-base"  # its weights in another format


@dataclass(frozen=True)
class HubBase:
    """The base model: its repository and commit on the Hub, as far as they are known."""

    name: str | None
    commit: str | None
    sha256: str | None  # identity of its files (whisper/identity.py)


@dataclass(frozen=True)
class Gate:
    """The verdict of a job's checks. `state` is None for a job without them."""

    state: str | None
    reasons: list[str]
    guards: list[Guard]

    @property
    def failed(self) -> bool:
        return self.state == "failed"

    @property
    def unchecked(self) -> list[str]:
        """The guards that were not checked."""
        return unchecked(self.guards)

    @property
    def words(self) -> str:
        """The verdict for people."""
        return gate_words(self.state, len(self.unchecked))


@dataclass(frozen=True)
class Measured:
    """The error rates of one model in percent, as in metrics.json."""

    model: str  # base, delivered or tuned
    scores: Scores
    wer_interval: tuple[float, float] | None
    cer_interval: tuple[float, float] | None

    def interval(self, metric: Metric) -> tuple[float, float] | None:
        """The 95 % interval of one of its rates."""
        return self.wer_interval if metric == "wer" else self.cer_interval


@dataclass(frozen=True)
class Facts:
    """All that a model card states about a job."""

    job: str
    spec: JobSpec
    language: Language
    base: HubBase
    gate: Gate
    rates: list[Measured]
    improvement: Mapping[str, Any] | None  # points and interval, as in metrics.json
    notes: list[str]
    warnings: list[str]
    corpora: list[str]  # names without folders of this machine
    data_sets: list[str]  # those that are on the Hub
    counts: Mapping[str, Any]  # of preprocessing: clips and hours
    steps: int | None
    learning_rate: float | None  # the highest
    allowed: list[int]  # tokens that the base suppresses and the tuned model may say

    @property
    def headline(self) -> Measured | None:
        """The figure to show first: `delivered`, or `tuned` of an older job."""
        by_name = {it.model: it for it in self.rates}
        return by_name.get("delivered") or by_name.get("tuned")


def read_facts(job: JobDir, base: str | None = None, revision: str | None = None) -> Facts:
    """The facts of a job. `base` and `revision` name its base model on the Hub.

    Raises UsageError for a malformed name.
    """
    if base is not None and ("/" not in base or not HUB_ID.fullmatch(base)):
        raise UsageError(f"--base-model: {base!r} is not a name on the Hub, such as OWNER/NAME")
    spec = JobSpec.load(job.spec_path)
    stages = finished_stages(job)
    metrics = _json(job.stage_dir("evaluate") / "metrics.json")
    named = HubBase(base, revision, _sha256(stages)) if base else _hub_base(spec, stages)
    results = [stages[name] for name in ("preprocess", "train", "evaluate") if name in stages]
    # Those of the training are about experiment trackers, with addresses of the user's servers.
    shown = [stages[name] for name in ("preprocess", "evaluate") if name in stages]
    corpora = [place for place in spec.places if place]
    report = _json(job.stage_dir("preprocess") / "report.json")
    train = stages.get("train")
    return Facts(
        job=job.root.name,
        spec=spec,
        language=find_language(spec.language),
        base=named,
        gate=read_gate(stages),
        rates=list(_rates(metrics)),
        improvement=metrics.get("improvement"),
        notes=[note for result in results for note in result.notes],
        warnings=[it for result in shown for it in result.warnings],
        corpora=[_corpus_name(place) for place in corpora],
        data_sets=[hub_corpus.parse(it).name for it in corpora if it.startswith(hub_corpus.SCHEME)],
        counts=_counts(stages, report),
        steps=_steps(train),
        learning_rate=spec.train.learning_rate or _highest_rate(job),
        allowed=[int(it) for it in report.get("suppressed_tokens_said", [])],
    )


def read_gate(stages: Mapping[str, StageResult]) -> Gate:
    """The verdict of a job's checks, and the reasons of those that failed."""
    found = verdict_of(stages)
    if found is None:
        return Gate(None, [], [])
    return Gate(found.gate, found.gate_reasons, found.guards)


def _hub_base(spec: JobSpec, stages: Mapping[str, StageResult]) -> HubBase:
    sha256 = _sha256(stages)
    commits = (result.base_commit for result in stages.values())
    commit = next((it for it in commits if it), None)
    if spec.base_model == PACKAGED_NAME:
        return HubBase(PACKAGED_HUB_ID, None, sha256)
    folder = Path(spec.base_model).expanduser()
    if not folder.is_absolute() and HUB_ID.fullmatch(spec.base_model) and not folder.is_dir():
        return HubBase(spec.base_model, commit or spec.base_revision, sha256)
    # A snapshot in the Hub's cache: models--OWNER--NAME/snapshots/COMMIT.
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        name = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
        return HubBase(name, folder.name, sha256)
    return HubBase(None, None, sha256)


def _sha256(stages: Mapping[str, StageResult]) -> str | None:
    return next((it.base_sha256 for it in stages.values() if it.base_sha256), None)


def _rates(metrics: Mapping[str, Any]) -> Iterator[Measured]:
    intervals = metrics.get("intervals") or {}
    for model in ("base", "delivered", "tuned"):
        with suppress(ValueError):
            scores = Scores.model_validate(metrics.get(model))
            wer = scores.wer_interval or _pair(intervals.get(model))
            yield Measured(model, scores, wer, scores.cer_interval)


def _pair(values: Any) -> tuple[float, float] | None:
    return (values[0], values[1]) if isinstance(values, list) and len(values) == 2 else None


def _corpus_name(place: str) -> str:
    """The name of a corpus without the folders of this machine, logins and queries."""
    if place.startswith((hub_corpus.SCHEME, mdc.SCHEME)):
        return visible(place)
    name = public(place) if local_path(place) is None else PurePosixPath(place).name
    return visible(name)


def _counts(stages: Mapping[str, StageResult], report: Mapping[str, Any]) -> dict[str, Any]:
    result = stages.get("preprocess")
    values: Mapping[str, Any] = {} if result is None else result.as_json()
    names = ("train_clips", "train_hours", "test_clips", "test_hours")
    return {name: values.get(name, report.get(name)) for name in names}


def _steps(train: StageResult | None) -> int | None:
    steps = None if train is None else train.as_json().get("steps")
    return steps if isinstance(steps, int) else None


def _highest_rate(job: JobDir) -> float | None:
    """The highest learning rate in the history of a training."""
    try:
        lines = (job.stage_dir("train") / "history.jsonl").read_text("utf-8").splitlines()
        rates = [json.loads(line).get("learning_rate") or 0.0 for line in lines]
    except (OSError, ValueError, AttributeError):
        return None
    return max(rates, default=0.0) or None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_failed_gate(facts: Facts, force: bool) -> None:
    """Raise LorajobError if the job's checks failed and nothing forces its publication."""
    if facts.gate.failed and not force:
        why = "; ".join(facts.gate.reasons) or "see `lorajob report`"
        raise LorajobError(
            f"{facts.job}: its gate failed: {why}; --force publishes it nevertheless, and the "
            "model card says so"
        )
