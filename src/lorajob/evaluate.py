"""Stage 3: measure word and character error rates of the base and the tuned model.

There are three figures:

delivered   the converted model, decoded as its users decode it: by faster-whisper with its own
            defaults and the language given, on a sample of the test clips
base        the base model, on the same clips in the same way; on fewer of them if it is far from
            the delivered model
tuned       the converted model by lorajob's fast decoder, on all test clips

The settings of the fast decoder follow from the spec and from the training clips. References are
read only to count errors.
"""

import importlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from lorajob.book.job_text import decide_text
from lorajob.book.trial import PlainClips, try_glossary
from lorajob.decoding.config import DecodeConfig, TokenLimits, token_limits, write_config
from lorajob.decoding.delivered import HeardClip, placement_warnings
from lorajob.decoding.fast import Sound, decode
from lorajob.decoding.forecast import expect_passes
from lorajob.decoding.long_form import transcribe_long
from lorajob.decoding.paired import (
    FAR_CLIPS,
    BaseModel,
    Clips,
    Pair,
    PairPace,
    far_apart,
    hear_both,
)
from lorajob.decoding.text_choice import TEXT_FILE
from lorajob.errors import LorajobError
from lorajob.gate.checks import Candidate, check_all
from lorajob.gate.cost import check_cost
from lorajob.gate.hearing import Clock, KeptModel, LoadedModel, Slot
from lorajob.gate.memory import own_corpora
from lorajob.gate.recordings import FastHearing
from lorajob.gate.texts import Transcripts
from lorajob.job.jobdir import JobDir, hash_files, write_json
from lorajob.job.report import PassProgress, Report
from lorajob.job.results import EvaluateResult, Guard, gate_fields
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.gap import explain_gap
from lorajob.speech.overlap import (
    Overlap,
    Shared,
    overlap,
    unshared_scores,
    unshared_words,
)
from lorajob.speech.sample import balanced
from lorajob.speech.scoring import (
    difference,
    few_clips,
    score,
    score_with_intervals,
    utterance_rows,
)
from lorajob.whisper.conversion import delivered_model
from lorajob.whisper.identity import base_of
from lorajob.whisper.tokens import Labels, allowed_tokens

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Clips:
    """The test clips that are decoded, as places in their store."""

    store: ClipStore
    all: list[int]  # in the order of the store
    sample: list[int]  # those that faster-whisper decodes too, in the order of drawing

    def sounds(self, places: Sequence[int]) -> list[Sound]:
        store = self.store
        return [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in places]


def _progress(report: Report, clips: _Clips, spec: JobSpec) -> PassProgress:
    """Progress in clips. The gate takes about as long as a pass of faster-whisper."""
    sample = len(clips.sample)
    gate = sample if spec.gate.check else 0
    passes = {"conversion": 0, "tuned": len(clips.all), "delivered": sample, "base": sample}
    return PassProgress(report, passes | {"gate": gate})


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> EvaluateResult:
    """Write metrics.json and utterances.jsonl to `out`. Returns the scores of both models.

    Raises ModelError if the base model cannot be loaded.
    """
    store = ClipStore(job.stage_dir("preprocess") / "test")
    clips = _choose(store, spec)
    training = read_training(job, store, spec.language)
    language = find_language(spec.language).token
    config = DecodeConfig(
        language=language,
        cut=spec.decodes_cut,
        beam_size=spec.evaluate.beam_size,
        limits=training.limits,
        seed=spec.seed,
    )
    folder = base_of(spec, job).folder
    kind = spec.convert.compute_types[0]
    pace = _progress(report, clips, spec)
    report.check_stop()
    with TemporaryDirectory(dir=out) as scratch:
        model = Path(scratch, "tuned")
        model.mkdir()
        adapter = job.stage_dir("train") / "adapter"
        allowed = allowed_tokens(job.stage_dir("preprocess"), Labels(folder, language))
        digest = delivered_model(folder, adapter, allowed, kind, model)
        pace.passed()
        told = decide_text(spec, job, model, config, partial(pace.done, 0))
        if (config := told.config).text is not None:
            shutil.copyfile(model / TEXT_FILE, out / TEXT_FILE)
        size = spec.evaluate.batch_size
        ahead = partial(expect_passes, spec, len(clips.all), len(clips.sample), pace)
        sounds = clips.sounds(clips.all)
        texts = decode(model, config, sounds, size, pace.done, ahead)
        plain = PlainClips(clips.store, clips.all, sounds, texts)
        tried = try_glossary(spec, job, model, config, plain, partial(pace.done, len(sounds)))
        pace.passed()
        base_model = BaseModel(folder, kind, Path(scratch, "base"))
        paces = PairPace(pace.done, pace.done, pace.passed)
        pair = hear_both(model, base_model, _for_users(clips, spec), paces)
        pace.passed()
        heard = _Transcripts(clips, texts, pair.delivered.clips, pair.base.clips)
        fast = FastHearing(heard.of_delivered("tuned"), partial(transcribe_long, model, config))
        slot = Slot()
        guards = _check_gate(spec, heard, (model, fast), base_model, pace, pair, slot)
        pace.passed()
    result, details = measure(heard, spec, training)
    notes = [*result.notes, *filter(None, (told.note, tried.note))]
    warnings = [*result.warnings, *placement_warnings(pair.placements | {"gate": slot.placements})]
    added = {"notes": notes, "glossary": tried.scores, "warnings": warnings}
    result = result.model_copy(update=added | gate_fields(guards))
    details |= {
        "tuned_audio_context": "dynamic" if config.cut else "full",
        "decoding": config.model_dump(mode="json"),
        "compute_type": kind,
        "model_sha256": digest,
        "seconds": pace.seconds,
        "forecast_seconds": pace.expected,
    }
    # `convert` puts these settings, and the model of text, beside the model.
    write_config(out, config)
    write_json(out / "metrics.json", result.model_dump(mode="json") | details)
    _write_rows(out / "utterances.jsonl", heard, spec.language)
    if "tensorboard" in spec.trackers:
        # It loads torch.
        history = importlib.import_module("lorajob.training.history")
        rates = {"base": result.base, "delivered": result.delivered, "tuned": result.tuned}
        history.write_table(out / "tensorboard", rates)
    for line in (*result.notes, *result.warnings):
        log.info("%s", line)
    metric = find_language(spec.language).primary_metric
    log.info(
        "%s %.1f %% (%d clips) -> %.1f %% (%d clips) as delivered, %.1f %% (%d clips) by the fast "
        "decoder",
        metric.upper(),
        result.base.rate(metric),
        result.base.clips,
        result.delivered.rate(metric),
        result.delivered.clips,
        result.tuned.rate(metric),
        len(clips.all),
    )
    return result


def _choose(store: ClipStore, spec: JobSpec) -> _Clips:
    every = range(len(store))
    most = spec.evaluate.max_clips or len(store)
    chosen = sorted(balanced(every, store.ids, store.speakers, most, spec.seed))
    count = spec.evaluate.delivered_clips
    return _Clips(store, chosen, balanced(chosen, store.ids, store.speakers, count, spec.seed))


@dataclass(frozen=True)
class Training:
    """What the training clips tell: limits of tokens, and what the test clips share with them.

    `overlap` is None if that is unknown.
    """

    limits: TokenLimits = field(default_factory=TokenLimits)
    overlap: Overlap | None = None
    shared: Shared = field(default_factory=Shared)


def read_training(job: JobDir, test: ClipStore, language: str) -> Training:
    """What preprocessing found in the training clips, for `test`.

    An older version did not write all of it into its report. Then the training clips are read, if
    they are on this machine; otherwise the usual limits hold.
    """
    folder = job.stage_dir("preprocess")
    try:
        found = json.loads((folder / "report.json").read_text("utf-8"))
        limits = TokenLimits.model_validate(found["token_limits"])
        both = found["in_both"] | found["test_clips_in_both"]
        shared = Shared.model_validate(found.get("shared", {}))
        return Training(limits, Overlap(test_clips=len(test), **both), shared)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    try:
        train = ClipStore(folder / "train")
    except LorajobError:
        return Training()
    counts = overlap(train.speakers, train.texts, test.speakers, test.texts, language)
    return Training(token_limits(train.tokens, train.seconds), counts)


def _for_users(clips: _Clips, spec: JobSpec) -> Clips:
    """The sample, as faster-whisper hears it."""
    budget = spec.evaluate.delivered_minutes
    return Clips(
        sounds=clips.sounds(clips.sample),
        identity={"clips": hash_files(clips.store.folder), "places": clips.sample},
        language=find_language(spec.language).token,
        seed=spec.seed,
        seconds=None if budget is None else 30 * budget,
        base_clips=spec.evaluate.base_clips,
        # The speed has the same verdict whether the base's transcripts are cached or not.
        one_by_one=spec.gate.check and spec.gate.min_speed is not None,
    )


@dataclass(frozen=True)
class _Transcripts:
    """All transcripts: of all clips by the fast decoder, of a sample by faster-whisper."""

    clips: _Clips
    tuned: list[str]  # of clips.all
    delivered: list[HeardClip]  # of the first of clips.sample
    base: list[HeardClip]

    @property
    def heard(self) -> list[int]:
        """The places of the clips that the delivered model was decoded on, in that order."""
        return self.clips.sample[: len(self.delivered)]

    @property
    def compared(self) -> list[int]:
        """The first of `heard`: those that the base was decoded on, too."""
        return self.heard[: len(self.base)]

    def of(self, model: str) -> dict[int, str]:
        """The transcripts by place."""
        if model == "tuned":
            return dict(zip(self.clips.all, self.tuned, strict=True))
        places, found = (
            (self.heard, self.delivered) if model == "delivered" else (self.compared, self.base)
        )
        return {place: it.text for place, it in zip(places, found, strict=False)}

    def of_delivered(self, model: str) -> list[str]:
        """The transcripts of the clips that the delivered model was decoded on."""
        found = self.of(model)
        return [found[place] for place in self.heard if place in found]


def measure(
    heard: _Transcripts, spec: JobSpec, training: Training
) -> tuple[EvaluateResult, dict[str, object]]:
    """The result, and what metrics.json has besides."""
    store, compared = heard.clips.store, heard.compared
    references = [store.texts[it] for it in heard.heard]
    speakers = [store.speakers[it] for it in heard.heard]
    base, delivered = heard.of_delivered("base"), heard.of_delivered("delivered")
    tuned_there = heard.of_delivered("tuned")
    both = len(compared)
    metric = find_language(spec.language).primary_metric
    every = heard.clips.all
    tuned = score_with_intervals(
        [store.texts[it] for it in every],
        heard.tuned,
        [store.speakers[it] for it in every],
        spec.seed,
        spec.language,
    )
    there = score_with_intervals(references, tuned_there, speakers, spec.seed, spec.language)
    scored = score_with_intervals(references, delivered, speakers, spec.seed, spec.language)
    texts = {model: heard.of(model) for model in ("base", "delivered", "tuned")}
    unshared = unshared_scores(training.shared, store, texts, spec.seed, spec.language)
    said, who = references[:both], speakers[:both]  # of the clips that `base` has
    before = score_with_intervals(said, base, who, spec.seed, spec.language)
    result = EvaluateResult(
        base=before,
        delivered=scored,
        tuned=tuned,
        improvement=(
            difference(
                said,
                base,
                delivered[:both],
                metric,
                seed=spec.seed,
                language=spec.language,
                speakers=who,
            )
            if before.clips > 1
            else None
        ),
        delivered_on_base_clips=(
            score(said, delivered[:both], spec.language) if both < len(delivered) else None
        ),
        notes=[*_notes(heard, spec, training.overlap), *unshared_words(unshared, metric)],
        unshared=unshared,
        warnings=[
            *few_clips(scored, metric),
            *explain_gap(references, tuned_there, delivered, tuned, spec.language),
        ],
    )
    rates = {"base": result.base, "delivered": result.delivered, "tuned": result.tuned}
    details: dict[str, object] = {
        "intervals": {name: it.interval(metric) for name, it in rates.items()},
        "tuned_on_delivered_clips": there.model_dump(mode="json"),
        "overlap": None if training.overlap is None else training.overlap.model_dump(),
        "test_clips": len(store),
        "speakers": len(set(speakers) - {""}),
    }
    return result, details


def _check_gate(
    spec: JobSpec,
    heard: _Transcripts,
    delivered: tuple[Path, FastHearing],
    base: BaseModel,
    pace: PassProgress,
    pair: Pair,
    slot: Slot,
) -> list[Guard]:
    """The guards of the converted model in a folder, and by lorajob's decoder."""
    tuned, fast = delivered
    store, minutes = heard.clips.store, spec.gate.minutes
    of_tuned, of_base = (
        {it.sound: it.language for it in found} for found in (heard.delivered, heard.base)
    )
    clock = Clock(
        None if minutes is None else 60 * minutes,
        lambda: pace.done(int(clock.share * len(heard.clips.sample)), f"gate: {clock.checking}"),
    )
    base_identity = base.identity() | pair.base.placement.identity()
    candidate = Candidate(
        tuned=LoadedModel(lambda: tuned, clock, slot, of_tuned),
        base=KeptModel(LoadedModel(base.folder, clock, slot, of_base), base_identity),
        clips=Transcripts(
            references=[store.texts[it] for it in heard.heard],
            base=heard.of_delivered("base"),
            delivered=heard.of_delivered("delivered"),
            language=spec.language,
        ),
        sounds=[partial(store.audio, it) for it in heard.heard],
        fast=replace(fast, long=partial(slot.lend, fast.long)),
        seed=spec.seed,
        own=own_corpora(spec, store.folder.parent),
    )
    if not (guards := check_all(spec.gate, candidate, clock)):
        return []
    seconds = sum(float(store.seconds[it]) for it in heard.heard)
    return [*guards, *check_cost(spec.gate, seconds, pair.delivered.seconds, pair.together)]


def _notes(heard: _Transcripts, spec: JobSpec, shared: Overlap | None) -> list[str]:
    every, tested = len(heard.clips.all), len(heard.clips.store)
    notes = [spec.text.sentence] if spec.text.changes else []
    if every < tested:
        notes.append(f"tuned: {every:,} of {tested:,} test clips, drawn at random")
    count, compared, drawn = len(heard.heard), len(heard.compared), len(heard.clips.sample)
    who = "base and delivered" if count == compared else "delivered"
    if count < drawn:
        notes.append(
            f"{who}: {count:,} of the {drawn:,} clips that were drawn, because "
            f"evaluate.delivered_minutes={spec.evaluate.delivered_minutes:g} ended"
        )
    elif count < tested:
        notes.append(f"{who}: {count:,} of {tested:,} test clips, drawn at random")
    if compared < count:
        notes.append(_fewer_of_base(heard, spec))
    return [*notes, *(shared.sentences() if shared is not None else ())]


def _fewer_of_base(heard: _Transcripts, spec: JobSpec) -> str:
    """Why the base was decoded on fewer clips than the delivered model."""
    count, compared = len(heard.heard), heard.compared
    store, chosen = heard.clips.store, spec.evaluate.base_clips
    texts = heard.of_delivered("delivered")[: len(compared)]
    there = score([store.texts[it] for it in compared], texts, spec.language)
    enough = len(compared) >= FAR_CLIPS
    if chosen == "auto" and enough:
        enough = far_apart(texts, heard.of_delivered("base"), find_language(spec.language).token)
    wanted = chosen if isinstance(chosen, int) else count
    if len(compared) == wanted:
        why = f"evaluate.base_clips={wanted}"
    elif chosen == "auto" and enough:
        why = "their transcripts are so far apart that these tell enough (evaluate.base_clips=auto)"
    else:
        why = f"evaluate.delivered_minutes={spec.evaluate.delivered_minutes:g} ended"
    metric = find_language(spec.language).primary_metric
    return (
        f"base: the first {len(compared):,} of the {count:,} clips of delivered, which has "
        f"{there.rate(metric):.1f} % {metric.upper()} on them: {why}"
    )


def _write_rows(path: Path, heard: _Transcripts, language: str) -> None:
    """Write one JSON object for each clip: reference, and of each model text and errors.

    Only clips of the sample have `base` and `delivered`.
    """
    store, every = heard.clips.store, heard.clips.all
    rows: dict[int, dict[str, object]] = {
        place: {
            "id": store.ids[place],
            "seconds": round(float(store.seconds[place]), 3),
            "reference": store.texts[place],
        }
        for place in every
    }
    for model in ("base", "delivered", "tuned"):
        texts = heard.of(model)
        said = [store.texts[place] for place in texts]
        ids = [store.ids[place] for place in texts]
        counted = utterance_rows(ids, said, list(texts.values()), language)
        for place, found in zip(texts, counted, strict=True):
            rows[place] |= {model: texts[place], f"{model}_errors": _errors(found)}
    with path.open("w", encoding="utf-8") as file:
        for row in rows.values():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _errors(row: dict[str, object]) -> dict[str, object]:
    return {key: row[key] for key in row if key not in {"id", "reference", "hypothesis"}}
