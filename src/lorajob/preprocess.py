"""Stage 1: read a corpus into two clip stores, one for training and one for testing.

    OUT/train/  OUT/test/   clips in the format of `clipstore`
    OUT/report.json         how many clips were kept, which were dropped and why

A clip is dropped if its text is empty or only punctuation, its text has too many tokens, its audio
cannot be read, or it is too long or too short. The report counts and names the dropped clips.
Training on them would teach the model a wrong text for the sound.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorajob.cores import threads_a_stage
from lorajob.corpora import Clip, Corpus, fingerprint, local_copy, open_corpus
from lorajob.corpora.joined import Part, join_corpora
from lorajob.corpora.pieces import Piece, pieces
from lorajob.corpora.report import CorpusReport
from lorajob.corpora.split import choose_test, sample
from lorajob.errors import CorpusError
from lorajob.job.jobdir import JobDir, hash_file, write_json
from lorajob.job.report import Report
from lorajob.job.results import PreprocessResult
from lorajob.languages import find_language
from lorajob.spec import JobSpec, PreprocessConfig
from lorajob.speech import audio
from lorajob.speech.clipstore import ClipWriter, encode
from lorajob.speech.text import clean, normalise
from lorajob.storage import cache, places
from lorajob.storage.urls import public
from lorajob.whisper.tokens import Labels

# Version of this stage's output, part of the cache key: raise it with every change of the output.
VERSION = 3
EMPTY_TEXT = "empty text"
DEV = "dev"
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
        spec=spec.model_dump(mode="json", include={"language", "seed", "preprocess"}),
        weights=[spec.corpus_weight, *(each.weight for each in spec.more_corpora)],
        test_corpus=spec.test_corpus is not None,
    )
    if (kept_before := cache.lookup("preprocess", name, out)) is not None:
        log.info("%s: as an earlier job read it", public(spec.corpus))
        return PreprocessResult(**kept_before)
    corpus = _opened(spec, sources, language.code, pace)
    selection = select(corpus, spec.preprocess, spec.seed)
    kept = CorpusReport(language.code, selection.test_by)
    _write_stores(corpus, selection, spec.preprocess, labels, out, kept, pace)
    for target in ("train", "test"):
        if not kept.clips(target):
            raise CorpusError(
                f"corpus: {public(spec.corpus)} has no usable {target} clip: {kept.reasons(target)}"
            )
    size = sum(path.stat().st_size for path in out.rglob("*.arrow"))
    write_json(out / "report.json", kept.as_dict(size))
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
    # Unreadable clips may be repaired later, so such a result is not cached.
    if not any(reason == audio.UNREADABLE for reason in result.dropped):
        cache.keep("preprocess", name, result.model_dump(), out)
    return result


def _opened(spec: JobSpec, sources: list[Path], language: str, pace: "_ClipProgress") -> Corpus:
    """The corpus of a job, or all its corpora as one."""
    columns = spec.preprocess.columns
    found = [open_corpus(source, language, pace.tick, columns) for source in sources]
    if len(found) == 1 and spec.corpus_weight == 1:
        return found[0]
    test = found.pop() if spec.test_corpus else None
    weights = [spec.corpus_weight, *(each.weight for each in spec.more_corpora)]
    return join_corpora(
        [Part(corpus, weight) for corpus, weight in zip(found, weights, strict=True)],
        test,
        spec.preprocess.train_splits,
        spec.preprocess.test_split,
        spec.seed,
    )


def select(corpus: Corpus, config: PreprocessConfig, seed: int) -> Selection:
    """Choose the clips by the corpus's splits. Without a test split, set train clips aside.

    `max_train_clips` and `max_test_clips` limit how many clips are read; some of those may still be
    dropped. Raises CorpusError if the requested splits are empty.
    """
    test = {entry.id for entry in corpus.entries if entry.split == config.test_split}
    rest = [
        entry
        for entry in corpus.entries
        if entry.split in config.train_splits and entry.id not in test
    ]
    if not rest:
        have = ", ".join(f"{name} ({count:,})" for name, count in corpus.splits.items())
        raise CorpusError(
            f"preprocess.train_splits: no clips in {', '.join(config.train_splits) or 'none'};"
            f" splits of this corpus: {have or 'none'}"
        )
    test_by = "split"
    if not test:
        test, test_by = choose_test(rest, config.test_share, seed)
    if not test:
        raise CorpusError(
            f"preprocess.test_share: {config.test_share:g} of {len(rest):,} clips sets none aside,"
            f" and the corpus has no split {config.test_split}; allowed: over 0, and two sentences"
        )
    train = {entry.id for entry in rest} - test
    return Selection(
        train=frozenset(sample(train, config.max_train_clips, seed)),
        test=frozenset(sample(test, config.max_test_clips, seed)),
        test_by=test_by,
        dev=frozenset(entry.id for entry in rest if entry.split == DEV) - test,
    )


def prepare_clip(
    piece: Piece, target: Target, config: PreprocessConfig, labels: Labels
) -> Prepared:
    """Decode and check one clip. The cheap checks come first."""
    clip = piece.clip
    text = clean(clip.text)
    speaker = clip.speaker
    tokens = labels.count(text)
    reason = clip.fault or None
    if reason is None and not normalise(text):
        reason = EMPTY_TEXT
    elif reason is None and tokens > config.max_label_tokens:
        reason = f"over {config.max_label_tokens} label tokens"
    if reason:
        return Prepared(clip.id, target, text, speaker, reason=reason)
    try:
        samples = piece.samples(config.max_seconds)
    except audio.AudioError as error:
        return Prepared(clip.id, target, text, speaker, reason=error.reason)
    seconds = len(samples) / audio.SAMPLE_RATE
    if seconds < config.min_seconds:
        short = f"under {config.min_seconds:g} s"
        return Prepared(clip.id, target, text, speaker, reason=short)
    encoded = encode(samples, config.audio_format)
    return Prepared(clip.id, target, text, speaker, tokens, seconds, encoded)


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
            return prepare_clip(piece, selection.target(piece.clip), config, labels)

        for clip in _in_order(work, pieces(clips, config.max_seconds)):
            done += 1
            kept.add(clip.target, clip.id, clip.text, clip.speaker, clip.seconds, clip.reason)
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
