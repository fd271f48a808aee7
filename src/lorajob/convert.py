"""Stage 4: merge the adapter into the float base, convert it for faster-whisper and check it.

Evaluation has measured the model that is delivered (`delivered`). This stage checks a sample:

1. For each reference token, the float32 conversion and the merged transformers model give the same
   log-probability within 1e-3. Otherwise the stage fails.
2. Every converted type transcribes as the merged model does.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration

from lorajob.decoding.config import DecodeConfig, read_config, usual_config, write_config
from lorajob.decoding.delivered import listen
from lorajob.decoding.fast import BATCH_WINDOWS, Sound, decode
from lorajob.decoding.text_choice import TEXT_FILE
from lorajob.decoding.torch_engine import TorchEngine
from lorajob.decoding.windows import extractor, features
from lorajob.errors import ParityError
from lorajob.gate.conversion import FEWEST_CLIPS, Converted, check_conversion, with_conversion
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.job.results import ConvertResult, Guard, Scores, gate_fields
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.sample import balanced
from lorajob.speech.scoring import score
from lorajob.whisper import ct2
from lorajob.whisper.conversion import delivered_model
from lorajob.whisper.identity import base_of
from lorajob.whisper.model import encode_features, merge_adapter, suppress_less
from lorajob.whisper.tokens import Labels, allowed_tokens

MAX_LOGPROB_DIFFERENCE = 1e-3  # nats for each token; float32 on both sides agrees to about 1e-6
MAX_DIFFERENCE = 0.5  # points of the error rate between transformers and a converted type
SHOWN_CLIPS = 4  # transcripts of faster-whisper in parity.json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sample:
    """The test clips that are checked, and how the model is decoded."""

    store: ClipStore
    places: list[int]
    config: DecodeConfig
    labels: Labels

    @property
    def references(self) -> list[str]:
        return [self.store.texts[place] for place in self.places]

    @property
    def sounds(self) -> list[Sound]:
        store = self.store
        return [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in self.places]

    @property
    def greedy(self) -> DecodeConfig:
        """Without what transformers does in another way, or not at all."""
        once = {"beam_size": 1, "temperatures": (0.0,), "no_speech": None, "text": None}
        return self.config.model_copy(update=once)


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> ConvertResult:
    """Write `out`/model, `out`/model-TYPE for each further type, and `out`/parity.json.

    Raises ParityError if the conversion gives other results, ModelError if the base or the merged
    model cannot be loaded or converted.
    """
    store = ClipStore(job.stage_dir("preprocess") / "test")
    folder = base_of(spec, job).folder
    config = read_config(job.stage_dir("evaluate")) or usual_config(spec)
    count = spec.convert.check_clips
    places = balanced(range(len(store)), store.ids, store.speakers, count, spec.seed)
    sample = _Sample(store, places, config, Labels(folder, config.language))
    types = spec.convert.compute_types
    pace = _StepProgress(report, 3 + 2 * len(types))
    adapter = job.stage_dir("train") / "adapter"
    warnings = []
    with TemporaryDirectory(dir=out) as scratch:
        merged = merge_adapter(folder, adapter)
        allowed = allowed_tokens(job.stage_dir("preprocess"), sample.labels)
        suppress_less(merged, allowed)
        pace.done("merged")
        made = {kind: out / ("model" if not n else f"model-{kind}") for n, kind in enumerate(types)}
        for kind, target in made.items():
            if target == out / "model":
                target.mkdir()
                digest = delivered_model(folder, adapter, allowed, kind, target, merged)
                warnings += _other_weights(job, digest)
            else:
                ct2.convert(folder, target, kind, merged)
            write_config(target, config)
            if config.text is not None:
                shutil.copyfile(job.stage_dir("evaluate") / TEXT_FILE, target / TEXT_FILE)
            pace.done(f"{kind} converted")
        float32 = made.get("float32") or ct2.convert(
            folder, Path(scratch, "float32"), "float32", merged
        )
        difference, merged_texts = measure_parity(sample, merged, float32, pace)
        pace.done("parity")
        del merged  # frees its memory
    texts: dict[str, list[str]] = {}
    for kind, target in made.items():
        texts[kind] = decode(
            target,
            sample.greedy,
            sample.sounds,
            done=partial(pace.counts, kind, len(sample.places)),
        )
        pace.done(f"{kind} scored")
    sampled = {
        kind: score(sample.references, heard, spec.language)
        for kind, heard in {"merged": merged_texts, **texts}.items()
    }
    converted = Converted(sample.references, merged_texts, texts, spec.language)
    delivered, heard = _delivered(job, spec, out / "model", sample, pace)
    pace.done("faster-whisper")
    guards = _guards(job, spec, converted, list(made.values()), sample.labels)
    result = ConvertResult(
        converted=delivered,
        by_type={kind: sampled[kind] for kind in made},
        max_logprob_difference=difference,
        model="convert/model",
        warnings=warnings + type_warnings(converted),
        **gate_fields(guards),
    )
    _write_parity(out / "parity.json", result, sampled, heard)
    return result


class _StepProgress:
    """Reports progress after each step and checks for a stop."""

    def __init__(self, report: Report, steps: int) -> None:
        self._report, self._steps, self._step = report, steps, 0

    def done(self, phase: str) -> None:
        self._step += 1
        self._report.progress(self._step, self._steps, phase=phase)
        self._report.check_stop()

    def counts(self, phase: str, total: int, done: int) -> None:
        """As `goes_on`, with how many of `total` clips are done."""
        self.goes_on(f"{phase} {done}/{total}")

    def goes_on(self, phase: str) -> None:
        """Report progress within a step, so that a long step does not look stalled."""
        self._report.progress(self._step, self._steps, phase=phase)
        self._report.check_stop()


def _guards(
    job: JobDir, spec: JobSpec, converted: Converted, models: list[Path], labels: Labels
) -> list[Guard]:
    """The guards of evaluation and of this stage. An older evaluation has none."""
    evaluated = job.result("evaluate")
    if evaluated is None or not evaluated.guards:
        return []
    found = check_conversion(spec.gate, converted, models, labels)
    return with_conversion(evaluated.guards, found)


def _other_weights(job: JobDir, digest: str) -> list[str]:
    """A warning if evaluation measured other weights than these."""
    measured = _metrics(job).get("model_sha256")
    if measured in (None, digest):
        return []
    return [
        "the delivered weights differ in rounding from those that were measured, because another "
        "machine converted them"
    ]


def _metrics(job: JobDir) -> dict[str, Any]:
    try:
        found = json.loads((job.stage_dir("evaluate") / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _delivered(
    job: JobDir, spec: JobSpec, model: Path, sample: _Sample, pace: _StepProgress
) -> tuple[Scores, list[dict[str, str]]]:
    """The scores of `delivered`, and some transcripts of faster-whisper.

    Both come from evaluation. If an older version evaluated, the sample is decoded here.
    """
    evaluated = job.result("evaluate")
    if evaluated is not None and evaluated.delivered is not None:
        lines = (job.stage_dir("evaluate") / "utterances.jsonl").read_bytes().splitlines()
        rows = [row for row in map(json.loads, lines) if "delivered" in row]
        heard = [{"id": row["id"], "text": row["delivered"]} for row in rows[:SHOWN_CLIPS]]
        return evaluated.delivered, heard
    found = listen(
        model,
        sample.config.language,
        sample.sounds,
        spec.seed,
        done=lambda clips: pace.goes_on(f"faster-whisper {clips}/{len(sample.places)}"),
    )
    texts = [it.text for it in found.clips]
    ids = [sample.store.ids[place] for place in sample.places]
    heard = [{"id": id, "text": text} for id, text in zip(ids, texts, strict=True)]
    return score(sample.references, texts, spec.language), heard[:SHOWN_CLIPS]


def _write_parity(
    path: Path, result: ConvertResult, sampled: dict[str, Scores], heard: list[dict[str, str]]
) -> None:
    for warning in result.warnings:
        log.warning("%s", warning)
    write_json(
        path,
        {
            "max_logprob_difference": result.max_logprob_difference,
            "allowed_logprob_difference": MAX_LOGPROB_DIFFERENCE,
            "sample_clips": sampled["merged"].clips,
            "sample_scores": {name: scores.model_dump() for name, scores in sampled.items()},
            "faster_whisper": heard,
            "warnings": result.warnings,
            "gate": result.gate,
            "guards": [guard.model_dump(mode="json") for guard in result.guards],
        },
    )


def measure_parity(
    sample: _Sample, merged: WhisperForConditionalGeneration, float32: Path, pace: _StepProgress
) -> tuple[float, list[str]]:
    """The largest difference in log-probability over the sample, and transformers' transcripts.

    Raises ParityError, with the token's two values, if the difference is over
    `MAX_LOGPROB_DIFFERENCE`.
    """
    store, cut = sample.store, sample.config.cut
    scorer = ct2.Scorer(float32, sample.labels)
    extract = extractor(merged.config.num_mel_bins)
    worst = 0.0
    for done, place in enumerate(sample.places):
        pace.goes_on(f"parity {done}/{len(sample.places)}")
        mel = features(extract, [store.audio(place)], cut)
        hidden = torch.from_numpy(mel)
        ours = log_probabilities(merged, hidden, sample.labels, store.texts[place])
        theirs = scorer.log_probabilities(mel, store.texts[place])
        difference = np.abs(ours - theirs)
        token = int(difference.argmax())
        # Written with `not`, so that NaN fails too.
        if not difference[token] <= MAX_LOGPROB_DIFFERENCE:
            raise ParityError(
                f"convert: the float32 conversion differs from the merged model on clip "
                f"{store.ids[place]}, token {token}: log-probability {theirs[token]:.6f} "
                f"against {ours[token]:.6f}; at most {MAX_LOGPROB_DIFFERENCE} is allowed"
            )
        worst = max(worst, float(difference[token]))
    return worst, _transcripts(sample, merged, extract)


def _transcripts(
    sample: _Sample, merged: WhisperForConditionalGeneration, extract: FeatureExtractor
) -> list[str]:
    """Greedy transcripts of the sample by transformers."""
    settings = merged.generation_config
    never, not_first = settings.suppress_tokens or (), settings.begin_suppress_tokens or ()
    engine = TorchEngine(merged, sample.labels, never, not_first)
    store, limits = sample.store, sample.config.limits
    order = sorted(sample.places, key=lambda place: -store.seconds[place])
    texts: dict[int, str] = {}
    for start in range(0, len(order), BATCH_WINDOWS):
        places = order[start : start + BATCH_WINDOWS]
        mel = features(extract, [store.audio(place) for place in places], sample.config.cut)
        most = [limits.of(float(store.seconds[place])) for place in places]
        for place, limit, said in zip(places, most, engine.generate(mel, max(most)), strict=True):
            texts[place] = sample.labels.decode(said.sequences_ids[0][:limit])
    return [texts[place] for place in sample.places]


@torch.no_grad()
def log_probabilities(
    model: WhisperForConditionalGeneration, features: torch.Tensor, labels: Labels, text: str
) -> NDArray[np.float64]:
    """Teacher-forced log-probability of each token of `text`, normalised over the text tokens."""
    ids = labels.encode(text)
    given = torch.tensor([labels.prompt + ids])
    whisper: Any = model
    heard = encode_features(whisper.model.encoder, features)
    hidden = whisper.model.decoder(input_ids=given[:, :-1], encoder_hidden_states=heard)
    logits = whisper.proj_out(hidden.last_hidden_state)[0]
    spoken = logits[len(labels.prompt) - 1 :, : labels.end].double().log_softmax(-1)
    values: NDArray[np.float64] = spoken.gather(1, torch.tensor(ids)[:, None])[:, 0].numpy()
    return values


def type_warnings(converted: Converted) -> list[str]:
    """A warning for each type whose error rate differs from the merged model's on the same clips by
    more than MAX_DIFFERENCE. It says whether that may be chance.
    """
    return [
        _type_warning(converted, kind)
        for kind, rise in converted.rises.items()
        if abs(rise.points) > MAX_DIFFERENCE
    ]


def _type_warning(converted: Converted, kind: str) -> str:
    rate, rise = converted.rate_words(kind), converted.rises[kind]
    if converted.clips < FEWEST_CLIPS:
        return f"{rate}; of one clip that may be chance"
    low, high = rise.interval
    chance = "" if rise.apart(MAX_DIFFERENCE) else ", so it may be chance"
    return f"{rate}; the rise is {low:.1f} to {high:.1f} points (95 %){chance}"
