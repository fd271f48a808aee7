"""Stage 1: read a corpus into two clip stores, one for training and one for testing.

    OUT/train/  OUT/test/   clips in the format of `clipstore`
    OUT/report.json         how many clips were kept, which were dropped and why
    OUT/check.json          what `lorajob corpus check` would say about the corpus
    OUT/guard-1/ ...        clips of the gate's own corpora

A clip is dropped if its text is empty or only punctuation, its text has too many tokens, its audio
cannot be read, is cut off or silent, or it is too long or too short. Training on it would teach the
model a wrong text for the sound. The report counts every row of the corpus: kept, dropped by its
reason with one example, or unused.
"""

import logging
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from lorajob.checking.glance import check_script
from lorajob.checking.run import Plan, make_report, measured, refuse_leakage
from lorajob.checking.table import MeasuredClip, Table, open_table
from lorajob.corpora import local_copy
from lorajob.corpora.find import fingerprint
from lorajob.corpora.guards import write_guards
from lorajob.corpora.pieces import Piece, in_threads, pieces
from lorajob.corpora.report import CorpusReport
from lorajob.corpora.selection import Selection, Target, open_sources, select
from lorajob.corpora.usable import examine
from lorajob.decoding.config import token_limits
from lorajob.errors import CorpusError
from lorajob.job.jobdir import JobDir, hash_file, write_json
from lorajob.job.report import Report
from lorajob.job.results import PreprocessResult
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.speech import audio
from lorajob.speech.clipstore import ClipWriter, encode_audio
from lorajob.storage import cache, places
from lorajob.storage.urls import public
from lorajob.whisper.base_weights import check_values
from lorajob.whisper.tokens import Labels, suppressed_but_said, suppressed_tokens

# Version of this stage's output, part of the cache key: raise it with every change of the output.
VERSION = 10
SECONDS_BETWEEN_REPORTS = 0.5
TRAIN_CLIPS = "SELECT tokens, seconds, text FROM clips WHERE target = 'train' AND reason IS NULL"
TEST_CLIPS = "SELECT id FROM clips WHERE target = 'test' AND reason IS NULL ORDER BY n"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A clip ready to be written, or the `reason` why it is dropped."""

    id: str
    target: Target
    text: str
    speaker: str
    tokens: int = 0
    seconds: float = 0.0
    audio: bytes = b""
    reason: str | None = None
    detail: str = ""
    remarks: tuple[str, ...] = ()


def run(spec: JobSpec, job: JobDir, out: Path, attempt: int, report: Report) -> PreprocessResult:
    """Read the corpus of `spec` into `out`.

    Raises CorpusError if the corpus cannot be read or has no usable clip to train or test on,
    ModelError if the base model's tokenizer is missing, StageStopped when asked to stop.
    """
    from lorajob.whisper.identity import base_of

    language = find_language(spec.language)
    labels = Labels(base_of(spec, job).folder, language.token)
    check_values(labels.folder)
    pace = _ClipProgress(report)
    columns = spec.preprocess.columns
    sources = [local_copy(place) for place in spec.places]
    # Read the setting now: a wrong value fails at once, not after hours.
    places.cache_bytes()
    name = cache.key(
        version=VERSION,
        corpus=[fingerprint(source, language.code, pace.tick, columns) for source in sources],
        tokenizer=hash_file(labels.folder / "tokenizer.json"),
        suppressed=sorted(suppressed_tokens(labels.folder)),
        spec=spec.model_dump(mode="json", include={"language", "seed", "preprocess", "text"}),
        weights=[spec.corpus_weight, *(each.weight for each in spec.more_corpora)],
        test_corpus=spec.test_corpus is not None,
    )
    if (kept_before := cache.lookup("preprocess", name, out)) is not None:
        log.info("%s: as an earlier job read it", public(spec.corpus))
        write_guards(spec, out, labels.count, pace.tick)
        return PreprocessResult.model_validate(kept_before)
    corpus = open_sources(spec, sources, language.code, pace.tick)
    check_script(corpus.entries, spec)
    selection = select(corpus, spec.preprocess, spec.seed, language.code)
    rows = len(corpus.entries) + corpus.repeated
    kept = CorpusReport(language.code, selection.test_by, rows, selection.unused)
    plan = Plan(spec, corpus, labels.count)
    with open_table() as table:
        _write_stores(plan, selection, labels, out, kept, table, pace)
        table.finish()
        check = make_report(plan, table, selection, [])
        facts = _facts(table, labels, spec)
        shared = kept.shared_texts(it["id"] for it in table.each(TEST_CLIPS))
    write_json(out / "check.json", check.model_dump(mode="json"))
    for target in ("train", "test"):
        if not kept.clips(target):
            raise CorpusError(
                f"corpus: {public(spec.corpus)} has no usable {target} clip: {kept.reasons(target)}"
            )
    refuse_leakage(check, spec)
    size = sum(path.stat().st_size for path in out.rglob("*.arrow"))
    write_json(out / "report.json", kept.as_dict(size, shared) | facts)
    result = kept.result(size)
    log.info(
        "%s: %d train clips (%.2f h), %d test clips (%.2f h, by %s), %d dropped, %.1f MB",
        language.code,
        result.train_clips,
        result.train_hours,
        result.test_clips,
        result.test_hours,
        selection.test_by,
        sum(result.dropped.values()),
        size / 1e6,
    )
    for name, example in result.examples.items():
        count = result.dropped.get(name, 0) + result.noted.get(name, 0)
        log.info("%s %d: %s, such as %s", _verb(name, result), count, name, example)
    if result.unused:
        unused = ", ".join(f"{count:,} {name}" for name, count in result.unused.items())
        log.info("rows not used: %s", unused)
    # Files may be repaired later, so such a result is not cached.
    if not audio.FILE_FAULTS & {*result.dropped}:
        cache.keep("preprocess", name, result.model_dump(), out)
    write_guards(spec, out, labels.count, pace.tick)
    return result


def _facts(table: Table, labels: Labels, spec: JobSpec) -> dict[str, object]:
    """What the clips for training say about decoding. The store would be mapped into memory."""
    tokens, seconds = array("i"), array("f")
    for row in table.each(TRAIN_CLIPS):
        tokens.append(row["tokens"])
        seconds.append(row["seconds"])
    texts = (row["text"] for row in table.each(TRAIN_CLIPS))
    return {
        "token_limits": token_limits(tokens, seconds).model_dump(mode="json"),
        "suppressed_tokens_said": suppressed_but_said(labels, texts),
        "text": spec.text.model_dump(mode="json"),
    }


def _verb(name: str, result: PreprocessResult) -> str:
    return "dropped" if name in result.dropped else "kept"


def prepare_clip(
    piece: Piece, target: Target, plan: Plan, labels: Labels
) -> tuple[Prepared, MeasuredClip]:
    """Decode and check one clip, and encode it if it is kept."""
    clip, config = piece.clip, plan.spec.preprocess
    found = examine(piece, plan.wanted)
    prepared = Prepared(
        clip.id,
        target,
        found.text,
        clip.speaker,
        found.tokens,
        found.seconds,
        b"" if found.samples is None else encode_audio(found.samples, config.audio_format),
        found.reason,
        found.detail,
        found.remarks,
    )
    return prepared, measured(clip, target, plan.language, found)


def _write_stores(
    plan: Plan,
    selection: Selection,
    labels: Labels,
    out: Path,
    kept: CorpusReport,
    table: Table,
    pace: "_ClipProgress",
) -> None:
    config, corpus = plan.spec.preprocess, plan.corpus
    table.add_segments(corpus.entries)
    splits = {*config.train_splits, config.test_split}
    wanted = selection.train | selection.test
    clips = corpus.clips(splits, only=wanted)
    done = 0
    with (
        ClipWriter(out / "train", config.audio_format) as train,
        ClipWriter(out / "test", config.audio_format) as test,
    ):
        writers = {"train": train, "test": test}

        def work(piece: Piece) -> tuple[Prepared, MeasuredClip]:
            return prepare_clip(piece, selection.target(piece.clip), plan, labels)

        for clip, measures in in_threads(work, pieces(clips, config.max_seconds)):
            done += 1
            table.add(measures)
            kept.add(
                clip.target,
                clip.id,
                clip.text,
                clip.speaker,
                clip.seconds,
                clip.reason,
                clip.detail,
                clip.remarks,
            )
            if clip.reason is None:
                writers[clip.target].add_encoded(
                    clip.id,
                    clip.audio,
                    clip.seconds,
                    clip.text,
                    clip.speaker,
                    clip.tokens,
                    clip.id in selection.dev,
                )
            pace.tick(done, len(wanted))


class _ClipProgress:
    """Checks for a stop at every clip and reports progress a few times a second."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = time.monotonic()
        self._first_clip: float | None = None

    def tick(self, done: int = 0, total: int = 1) -> None:
        """Note that `done` of `total` clips are done; without arguments, tables are being read."""
        self._report.check_stop()
        now = time.monotonic()
        if done and self._first_clip is None:
            self._first_clip = self._last = now
        if now - self._last >= SECONDS_BETWEEN_REPORTS or done == total:
            self._last = now
            # The time before the first clip goes into loading models and reading tables.
            spent = now - (self._first_clip or now)
            eta = spent * (total - done) / (done - 1) if done > 1 else None
            self._report.progress(done, total, eta_seconds=eta)
