"""Stage 1: read a corpus into two clip stores, one for training and one for testing.

    OUT/train/  OUT/test/   clips in the format of `clipstore`
    OUT/report.json         how many clips were kept, which were dropped and why

A clip is dropped if its text is empty or only punctuation, its text has too many tokens, its audio
cannot be read, is cut off or silent, or it is too long or too short. Training on it would teach the
model a wrong text for the sound. The report counts every row of the corpus: kept, dropped by its
reason with one example, or unused.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lorajob.cores import threads_a_stage
from lorajob.corpora import Clip, Corpus, fingerprint, local_copy, open_corpus
from lorajob.corpora.joined import CorpusShare, join_corpora
from lorajob.corpora.pieces import Piece, pieces
from lorajob.corpora.report import CorpusReport
from lorajob.corpora.split import choose_test, sample
from lorajob.corpora.tables import text_fault
from lorajob.decoding.config import token_limits
from lorajob.errors import CorpusError
from lorajob.job.jobdir import JobDir, hash_file, write_json
from lorajob.job.report import Report
from lorajob.job.results import PreprocessResult
from lorajob.languages import find_language
from lorajob.spec import JobSpec, PreprocessConfig
from lorajob.speech import audio, levels
from lorajob.speech.clipstore import ClipStore, ClipWriter, encode_audio
from lorajob.speech.text import clean, normalise
from lorajob.storage import cache, places
from lorajob.storage.urls import public
from lorajob.whisper.tokens import Labels, suppressed_but_said, suppressed_tokens

# Version of this stage's output, part of the cache key: raise it with every change of the output.
VERSION = 5
EMPTY_TEXT = "text empty after normalising"
DEV = "dev"
LOST_TEXT = "text with characters that an earlier conversion lost (U+FFFD)"
CLIPS_AHEAD = 4  # for each thread: clips decoded before the first of them is written
SECONDS_BETWEEN_REPORTS = 0.5

Target = Literal["train", "test"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """Which clips are for training and which for testing, chosen before any audio is read."""

    train: frozenset[str]
    test: frozenset[str]
    # How the test clips were chosen: by the corpus's own "split", by "speaker" or by "sentence".
    test_by: str
    dev: frozenset[str] = frozenset()  # the clips for training that are of the split dev
    unused: Mapping[str, int] = field(default_factory=dict)  # rows, by the reason

    def target(self, clip: Clip) -> Target:
        return "test" if clip.id in self.test else "train"


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
        spec=spec.model_dump(mode="json", include={"language", "seed", "preprocess"}),
        weights=[spec.corpus_weight, *(each.weight for each in spec.more_corpora)],
        test_corpus=spec.test_corpus is not None,
    )
    if (kept_before := cache.lookup("preprocess", name, out)) is not None:
        log.info("%s: as an earlier job read it", public(spec.corpus))
        return PreprocessResult.model_validate(kept_before)
    corpus = _opened(spec, sources, language.code, pace)
    selection = select(corpus, spec.preprocess, spec.seed, language.code)
    rows = len(corpus.entries) + corpus.repeated
    kept = CorpusReport(language.code, selection.test_by, rows, selection.unused)
    _write_stores(corpus, selection, spec.preprocess, labels, out, kept, pace)
    for target in ("train", "test"):
        if not kept.clips(target):
            raise CorpusError(
                f"corpus: {public(spec.corpus)} has no usable {target} clip: {kept.reasons(target)}"
            )
    size = sum(path.stat().st_size for path in out.rglob("*.arrow"))
    clips = ClipStore(out / "train")
    limits = token_limits(clips.tokens, clips.seconds).model_dump(mode="json")
    said = suppressed_but_said(labels, clips.texts)
    facts = {"token_limits": limits, "suppressed_tokens_said": said}
    write_json(out / "report.json", kept.as_dict(size) | facts)
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
    return result


def _verb(name: str, result: PreprocessResult) -> str:
    return "dropped" if name in result.dropped else "kept"


def _opened(spec: JobSpec, sources: list[Path], language: str, pace: "_ClipProgress") -> Corpus:
    """The corpus of a job, or all its corpora as one."""
    columns = spec.preprocess.columns
    found = [open_corpus(source, language, pace.tick, columns) for source in sources]
    if len(found) == 1 and spec.corpus_weight == 1:
        return found[0]
    test = found.pop() if spec.test_corpus else None
    weights = [spec.corpus_weight, *(each.weight for each in spec.more_corpora)]
    return join_corpora(
        [CorpusShare(corpus, weight) for corpus, weight in zip(found, weights, strict=True)],
        test,
        spec.preprocess.train_splits,
        spec.preprocess.test_split,
        spec.seed,
    )


def select(corpus: Corpus, config: PreprocessConfig, seed: int, language: str) -> Selection:
    """Choose the clips by the corpus's splits. Without a test split, set train clips aside.

    `max_train_clips` and `max_test_clips` limit how many clips are read; some of those may still be
    dropped. Raises CorpusError if the requested splits are empty.
    """
    usable = [entry for entry in corpus.entries if not entry.fault]
    test = {entry.id for entry in usable if entry.split == config.test_split}
    rest = [
        entry for entry in usable if entry.split in config.train_splits and entry.id not in test
    ]
    if not rest:
        have = ", ".join(f"{name} ({count:,})" for name, count in corpus.splits.items())
        faults = Counter(entry.fault for entry in corpus.entries if entry.fault)
        if faults:
            have += "; rows that cannot be read: " + ", ".join(
                f"{count:,} {fault}" for fault, count in faults.most_common(3)
            )
        raise CorpusError(
            f"preprocess.train_splits: no clips in {', '.join(config.train_splits) or 'none'};"
            f" splits of this corpus: {have or 'none'}"
        )
    test_by = "split"
    if not test:
        test, test_by = choose_test(rest, config.test_share, seed, language)
    if not test:
        raise CorpusError(
            f"preprocess.test_share: {config.test_share:g} of {len(rest):,} clips sets none aside,"
            f" and the corpus has no split {config.test_split}; allowed: over 0, and two sentences"
        )
    train = {entry.id for entry in rest} - test
    chosen_train = frozenset(sample(train, config.max_train_clips, seed))
    chosen_test = frozenset(sample(test, config.max_test_clips, seed))
    # Rows that cannot be used take no place of others, but are counted.
    faulty = [entry for entry in corpus.entries if entry.fault]
    bad_test = {entry.id for entry in faulty if entry.split == config.test_split}
    bad_train = {entry.id for entry in faulty if entry.split in config.train_splits} - bad_test
    used = {*config.train_splits, config.test_split}
    unused = {f"in split {name}": n for name, n in corpus.splits.items() if name not in used}
    unused |= {
        "listed in two tables": corpus.repeated,
        "over preprocess.max_train_clips": len(train) - len(chosen_train),
        "over preprocess.max_test_clips": len(test) - len(chosen_test),
    }
    return Selection(
        train=chosen_train | bad_train,
        test=chosen_test | bad_test,
        test_by=test_by,
        dev=frozenset(entry.id for entry in rest if entry.split == DEV) - test,
        unused=unused,
    )


def prepare_clip(
    piece: Piece, target: Target, config: PreprocessConfig, labels: Labels, language: str
) -> Prepared:
    """Decode and check one clip. The cheap checks come first."""
    clip = piece.clip
    text = clean(clip.text)
    fault, detail = clip.fault or text_fault(text), ""
    if not fault and "\ufffd" in text:
        fault, detail = LOST_TEXT, repr(clip.text[:40])
    tokens = 0 if fault else labels.count(text)
    if not fault and not normalise(text, language):
        fault, detail = EMPTY_TEXT, repr(clip.text[:40])
    elif not fault and tokens > config.max_label_tokens:
        fault, detail = f"over {config.max_label_tokens} label tokens", f"{tokens} tokens"
    if fault:
        return Prepared(clip.id, target, text, clip.speaker, reason=fault, detail=detail)
    try:
        samples = piece.samples(config.max_seconds)
    except audio.AudioError as error:
        return Prepared(
            clip.id, target, text, clip.speaker, reason=error.reason, detail=error.detail
        )
    seconds = len(samples) / audio.SAMPLE_RATE
    if seconds < config.min_seconds:
        fault, detail = f"under {config.min_seconds:g} s", f"{seconds:.2f} s"
    elif levels.has_no_sound(samples):
        fault, detail = levels.SILENT, f"{seconds:.2f} s"
    if fault:
        return Prepared(clip.id, target, text, clip.speaker, reason=fault, detail=detail)
    encoded = encode_audio(samples, config.audio_format)
    return Prepared(
        clip.id,
        target,
        text,
        clip.speaker,
        tokens,
        seconds,
        encoded,
        remarks=levels.remarks(samples),
    )


def _write_stores(
    corpus: Corpus,
    selection: Selection,
    config: PreprocessConfig,
    labels: Labels,
    out: Path,
    kept: CorpusReport,
    pace: "_ClipProgress",
) -> None:
    splits = {*config.train_splits, config.test_split}
    wanted = selection.train | selection.test
    clips = corpus.clips(splits, only=wanted)
    done = 0
    with (
        ClipWriter(out / "train", config.audio_format) as train,
        ClipWriter(out / "test", config.audio_format) as test,
    ):
        writers = {"train": train, "test": test}

        def work(piece: Piece) -> Prepared:
            return prepare_clip(piece, selection.target(piece.clip), config, labels, kept.language)

        for clip in _in_order(work, pieces(clips, config.max_seconds)):
            done += 1
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


def _in_order(work: Callable[[Piece], Prepared], found: Iterable[Piece]) -> Iterator[Prepared]:
    """Call `work` on every piece in this stage's threads. Yields the results in their order.

    Few clips are in memory at a time. Threads are enough, because libsndfile, soxr, FFmpeg and the
    tokenizer all release Python's global lock.
    """
    threads = threads_a_stage()
    pending: deque[Future[Prepared]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for piece in found:
                pending.append(pool.submit(work, piece))
                if len(pending) >= CLIPS_AHEAD * (threads or 1):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


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
