"""Stage 4: merge the adapter into the float base, convert it for faster-whisper and check it.

There are three checks:

1. For each reference token, the float32 conversion and the merged transformers model give the same
   log-probability within 1e-3. Otherwise the stage fails.
2. Every converted type is scored on the test clips.
3. faster-whisper itself loads the result and transcribes some of the test clips.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from faster_whisper import WhisperModel
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration

from lorajob.errors import ParityError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.report import Report
from lorajob.job.results import ConvertResult, Scores
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score
from lorajob.whisper import ct2
from lorajob.whisper.features import LogMel, pad_windows
from lorajob.whisper.identity import base_of
from lorajob.whisper.model import allow_tokens, merge_adapter
from lorajob.whisper.tokens import Labels

MAX_LOGPROB_DIFFERENCE = 1e-3  # nats for each token; float32 on both sides agrees to about 1e-6
MAX_WER_DIFFERENCE = 0.5  # percentage points between transformers and a converted type
FASTER_WHISPER_CLIPS = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Check:
    """What the checks share."""

    store: ClipStore
    labels: Labels
    indices: Sequence[int]  # all test clips
    sample: Sequence[int]  # test clips that transformers decodes too
    spec: JobSpec

    def references(self, indices: Sequence[int]) -> list[str]:
        return [self.store.texts[index] for index in indices]


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> ConvertResult:
    """Write `out`/model, `out`/model-TYPE for each further type, and `out`/parity.json.

    Raises ParityError if the conversion gives other results, ModelError if the base or the merged
    model cannot be loaded or converted.
    """
    store = ClipStore(job.stage_dir("preprocess") / "test")
    indices = range(min(len(store), spec.evaluate.max_clips or len(store)))
    folder = base_of(spec, job).folder
    labels = Labels(folder, find_language(spec.language).token)
    sample = spread(indices, spec.convert.check_clips)
    check = _Check(store, labels, indices, sample, spec)
    types = spec.convert.compute_types
    pace = _StepProgress(report, 3 + 2 * len(types))
    with TemporaryDirectory(dir=out) as scratch:
        adapter = job.stage_dir("train") / "adapter"
        merged = merge_adapter(folder, adapter)
        allow_tokens(merged, labels, ClipStore(job.stage_dir("preprocess") / "train").texts)
        pace.done("merged")
        float32 = ct2.convert(folder, Path(scratch, "float32"), "float32", merged)
        difference, merged_texts = measure_parity(check, merged, float32, pace)
        pace.done("parity")
        by_type: dict[str, Scores] = {}
        sampled = {"merged": score(check.references(sample), merged_texts, spec.language)}
        made = {}
        for number, kind in enumerate(types):
            name = "model" if number == 0 else f"model-{kind}"
            made[kind] = ct2.convert(folder, out / name, kind, merged)
            pace.done(f"{kind} converted")
        del merged  # frees its memory
        for kind, target in made.items():
            texts = _transcripts(check, target, pace)
            by_type[kind] = score(check.references(indices), texts, spec.language)
            chosen = [texts[index] for index in sample]
            sampled[kind] = score(check.references(sample), chosen, spec.language)
            pace.done(f"{kind} scored")
    heard = listen(check, out / "model")
    pace.done("faster-whisper")
    result = ConvertResult(
        converted=by_type[types[0]],
        by_type=by_type,
        max_logprob_difference=difference,
        model="convert/model",
        warnings=wer_warnings(sampled) + padding_warnings(spec, job, by_type[types[0]]),
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

    def goes_on(self, phase: str, done: int, total: int) -> None:
        """Report progress within a step, so that a long step does not look stalled."""
        self._report.progress(self._step, self._steps, phase=f"{phase} {done}/{total}")
        self._report.check_stop()


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
        },
    )


def spread(indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of `indices`, evenly spaced."""
    chosen = np.linspace(0, len(indices) - 1, min(count, len(indices)))
    return [indices[int(place)] for place in chosen.round()]


def measure_parity(
    check: _Check, merged: WhisperForConditionalGeneration, float32: Path, pace: _StepProgress
) -> tuple[float, list[str]]:
    """The largest difference in log-probability over the sample, and transformers' transcripts.

    Raises ParityError, with the token's two values, if the difference is over
    `MAX_LOGPROB_DIFFERENCE`.
    """
    log_mel = LogMel(merged.config.num_mel_bins)
    decoder = ct2.Decoder(float32, check.labels)
    limits = dict(zip(check.indices, ct2.token_limits(check.store, check.indices), strict=True))
    worst = 0.0
    transcripts = []
    for done, index in enumerate(check.sample):
        pace.goes_on("parity", done, len(check.sample))
        audio, text = check.store.audio(index), check.store.texts[index]
        features = log_mel(pad_windows([audio]))
        ours = log_probabilities(merged, features, check.labels, text)
        theirs = decoder.log_probabilities(audio, text)
        difference = np.abs(ours - theirs)
        place = int(difference.argmax())
        # Written with `not`, so that NaN fails too.
        if not difference[place] <= MAX_LOGPROB_DIFFERENCE:
            raise ParityError(
                f"convert: the float32 conversion differs from the merged model on clip "
                f"{check.store.ids[index]}, token {place}: log-probability {theirs[place]:.6f} "
                f"against {ours[place]:.6f}; at most {MAX_LOGPROB_DIFFERENCE} is allowed"
            )
        worst = max(worst, float(difference[place]))
        transcripts.append(greedy(merged, features, check.labels, limits[index]))
    return worst, transcripts


@torch.no_grad()
def log_probabilities(
    model: WhisperForConditionalGeneration, features: torch.Tensor, labels: Labels, text: str
) -> NDArray[np.float64]:
    """Teacher-forced log-probability of each token of `text`, normalised over the text tokens."""
    ids = labels.encode(text)
    given = torch.tensor([labels.prompt + ids])
    logits = model(input_features=features, decoder_input_ids=given[:, :-1]).logits[0]
    spoken = logits[len(labels.prompt) - 1 :, : labels.end].double().log_softmax(-1)
    values: NDArray[np.float64] = spoken.gather(1, torch.tensor(ids)[:, None])[:, 0].numpy()
    return values


@torch.no_grad()
def greedy(
    model: WhisperForConditionalGeneration, features: torch.Tensor, labels: Labels, limit: int
) -> str:
    """The greedy transcript of transformers, without timestamps, fallback or voice detection."""
    ids: Any = model.generate(
        input_features=features,
        language=labels.language_token,
        task="transcribe",
        num_beams=1,
        do_sample=False,
        max_new_tokens=limit,
    )
    return labels.decode(ids[0].tolist())


def _transcripts(check: _Check, model: Path, pace: _StepProgress) -> list[str]:
    config = check.spec.evaluate
    decoder = ct2.Decoder(model, check.labels)

    def done(clips: int) -> None:
        pace.goes_on("decoding", clips, len(check.indices))

    return decoder.transcribe(check.store, check.indices, config.batch_size, done=done)


def listen(check: _Check, folder: Path) -> list[dict[str, str]]:
    """Transcribe a few test clips with faster-whisper, as a user of the model does."""
    model = WhisperModel(str(folder), device="auto")
    heard = []
    for index in spread(check.sample, FASTER_WHISPER_CLIPS):
        segments, _ = model.transcribe(
            check.store.audio(index),
            language=check.labels.language_token,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        text = " ".join(segment.text.strip() for segment in segments)
        heard.append({"id": check.store.ids[index], "text": text})
    return heard


def padding_warnings(spec: JobSpec, job: JobDir, padded: Scores) -> list[str]:
    """A warning if the WER on cut windows, from evaluation, differs from that on windows of 30 s,
    which faster-whisper makes. It differs if the gap is over MAX_WER_DIFFERENCE.
    """
    evaluated = job.result("evaluate")
    if evaluated is None or evaluated.tuned is None or not spec.decodes_cut:
        return []
    cut = evaluated.tuned.wer
    if abs(cut - padded.wer) <= MAX_WER_DIFFERENCE:
        return []
    return [
        f"WER {padded.wer:.2f} % on windows padded to 30 s, as faster-whisper makes them, against "
        f"{cut:.2f} % on windows cut to the clip"
    ]


def wer_warnings(sampled: dict[str, Scores]) -> list[str]:
    """A warning for each type whose WER differs from the merged model's on the same clips by more
    than MAX_WER_DIFFERENCE.
    """
    merged = sampled["merged"].wer
    return [
        f"{kind}: WER {scores.wer:.2f} % against {merged:.2f} % of the merged model "
        f"on {scores.clips} test clips"
        for kind, scores in sampled.items()
        if abs(scores.wer - merged) > MAX_WER_DIFFERENCE
    ]
