"""Stage 3: measure word and character error rates of the base and the tuned model.

Both models are converted to CTranslate2 in float32 and decode the same test clips greedily. The
transcripts equal those of transformers' `generate` and take less time (bench/RESULTS.md). A model
that was trained on cut windows decodes cut windows. `convert` scores the converted model on windows
of 30 s.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from lorajob.job.jobdir import JobDir, hash_file, hash_files, write_json
from lorajob.job.report import Report
from lorajob.job.results import EvaluateResult
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import interval, score, utterance_rows
from lorajob.storage import cache
from lorajob.whisper import ct2
from lorajob.whisper.identity import base_of
from lorajob.whisper.model import allow_tokens, merge_adapter
from lorajob.whisper.tokens import Labels

# Version of how the base model decodes, part of the cache key: raise it with every change.
VERSION = 2
# Files beside the weights that decide what the base model decodes.
SETTINGS = ("config.json", "generation_config.json", "tokenizer.json")

log = logging.getLogger(__name__)


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> EvaluateResult:
    """Write metrics.json and utterances.jsonl to `out`. Returns the scores of both models.

    Raises ModelError if the base model cannot be loaded.
    """
    store = ClipStore(job.stage_dir("preprocess") / "test")
    indices = range(min(len(store), spec.evaluate.max_clips or len(store)))
    folder = base_of(spec, job).folder
    language = find_language(spec.language)
    labels = Labels(folder, language.token)
    train = ClipStore(job.stage_dir("preprocess") / "train")
    with TemporaryDirectory(dir=out) as scratch:
        base_texts = _base_transcripts(folder, labels, store, indices, spec, report, Path(scratch))
        adapter = job.stage_dir("train") / "adapter"
        report.check_stop()
        merged = merge_adapter(folder, adapter)
        allow_tokens(merged, labels, train.texts)
        tuned = ct2.convert(folder, Path(scratch, "tuned"), "float32", merged)
        del merged  # frees its memory
        report.check_stop()
        tuned_texts = _decode(tuned, labels, store, indices, spec, report, len(indices), True)

    references = [store.texts[index] for index in indices]
    ids = [store.ids[index] for index in indices]
    result = EvaluateResult(
        base=score(references, base_texts, language.code),
        tuned=score(references, tuned_texts, language.code),
    )
    intervals = {
        "base": interval(references, base_texts, seed=spec.seed, language=language.code),
        "tuned": interval(references, tuned_texts, seed=spec.seed, language=language.code),
    }
    context = "dynamic" if spec.decodes_cut else "full"
    write_json(
        out / "metrics.json",
        result.model_dump() | {"intervals": intervals, "tuned_audio_context": context},
    )
    _write_rows(
        out / "utterances.jsonl", store, ids, references, base_texts, tuned_texts, language.code
    )
    log.info("WER %.1f -> %.1f %% on %d clips", result.base.wer, result.tuned.wer, len(indices))
    return result


def _base_transcripts(
    folder: Path,
    labels: Labels,
    store: ClipStore,
    indices: Sequence[int],
    spec: JobSpec,
    report: Report,
    scratch: Path,
) -> list[str]:
    """The base model's transcripts. They are cached by base model, clips and settings."""
    settings = [folder / name for name in SETTINGS if (folder / name).is_file()]
    name = cache.key(
        version=VERSION,
        base=[hash_file(it) for it in (*sorted(folder.glob("*.safetensors")), *settings)],
        clips=hash_files(store.folder),
        language=labels.language_token,
        settings=spec.evaluate.model_dump(include={"max_clips", "batch_size", "beam_size"}),
    )
    kept = cache.lookup("base-transcripts", name)
    if kept is None:
        report.check_stop()
        model = ct2.convert(folder, scratch / "base", "float32")
        kept = {"texts": _decode(model, labels, store, indices, spec, report, 0)}
        cache.keep("base-transcripts", name, kept)
    texts: list[str] = kept["texts"]
    return texts


def _decode(
    model: Path,
    labels: Labels,
    store: ClipStore,
    indices: Sequence[int],
    spec: JobSpec,
    report: Report,
    before: int,
    tuned: bool = False,
) -> list[str]:
    """Transcripts by one of the two models. `before` clips were already decoded by the other."""

    def done(clips: int) -> None:
        report.progress(before + clips, 2 * len(indices))
        report.check_stop()

    decoder = ct2.Decoder(model, labels)
    config = spec.evaluate
    cut = tuned and spec.decodes_cut
    return decoder.transcribe(store, indices, config.batch_size, config.beam_size, done, cut)


def _write_rows(
    path: Path,
    store: ClipStore,
    ids: list[str],
    references: list[str],
    base: list[str],
    tuned: list[str],
    language: str,
) -> None:
    """Write one JSON object for each utterance: reference, both hypotheses, errors of each."""
    rows = zip(
        utterance_rows(ids, references, base, language),
        utterance_rows(ids, references, tuned, language),
        strict=True,
    )
    with path.open("w", encoding="utf-8") as file:
        for index, (before, after) in enumerate(rows):
            row: dict[str, object] = {
                "id": ids[index],
                "seconds": round(float(store.seconds[index]), 3),
                "reference": references[index],
                "base": base[index],
                "tuned": tuned[index],
                "base_errors": _errors(before),
                "tuned_errors": _errors(after),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _errors(row: dict[str, object]) -> dict[str, object]:
    return {key: row[key] for key in row if key not in {"id", "reference", "hypothesis"}}
