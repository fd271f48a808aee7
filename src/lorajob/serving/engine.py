"""Decodes the requests of one model: reads their audio, cuts windows, decodes them in batches.

Every window is decoded as the model was scored: by the fast decoder with the settings that travel
with the model. Several threads take batches, so that a fallback of one window delays no other.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import ctranslate2

from lorajob.book.decode import Book, decode_with_book
from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.long_form import piece_bounds
from lorajob.decoding.words import word_times
from lorajob.errors import LorajobError, UsageError, first_line
from lorajob.languages import CER_TOKENS
from lorajob.serving.batcher import Queued, WindowQueue
from lorajob.serving.books import BookShelf, OpenBook
from lorajob.serving.measure import best_batch
from lorajob.serving.models import Answer, Begun, Failure, Request, SpokenPiece
from lorajob.serving.sound import read_sound
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.spoken import TimedWord
from lorajob.whisper.window import WINDOW_SAMPLES

GATHER_SECONDS = 0.005  # a batch waits this long for more windows, if batches are faster
READERS = 2  # files that are decoded to samples at a time
GPU_THREADS = 2  # while the GPU runs one batch, the features of the next are made

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the windows of one batch have in common."""

    language: str
    prompt: tuple[int, ...]
    temperature: float
    translate: bool
    times: bool
    book_key: str = ""
    book: Book | None = field(default=None, compare=False, repr=False)
    """Of the content that `book_key` tells."""


@dataclass(frozen=True)
class AudioWindow:
    """A window of a request: samples, and where they start in the audio, in seconds."""

    samples: Samples
    start: float


@dataclass
class _Open:
    """A request that is being decoded. Pieces are sent in their order."""

    windows: int
    sent: int = 0
    pieces: dict[int, SpokenPiece] = field(default_factory=dict)


class Engine:
    """Decodes requests with one model. `say` sends an answer; any thread may call it."""

    def __init__(
        self, decoder: FastDecoder, any_language: bool, say: Callable[[Answer], None]
    ) -> None:
        self._decoder, self._any_language, self._say = decoder, any_language, say
        self.batch_windows = best_batch(decoder)
        on_cpu = decoder.engine is not None and decoder.engine.device == "cpu"
        gather = GATHER_SECONDS if self.batch_windows > 1 else 0.0
        self._queue: WindowQueue[AudioWindow] = WindowQueue(self.batch_windows, gather)
        self._open: dict[int, _Open] = {}
        self._lock = threading.Lock()
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._books = BookShelf()
        threads = decoder.threads if on_cpu else (1 if decoder.engine is None else GPU_THREADS)
        for number in range(threads):
            threading.Thread(target=self._decode, name=f"decode-{number}", daemon=True).start()

    def submit(self, request: Request) -> None:
        """Decode a request. Its answers are begun, a piece for each window, and done or failure."""
        with self._lock:
            self._open[request.id] = _Open(0)
        self._readers.submit(self._read, request)

    def cancel(self, request: int) -> None:
        """Drop a request and its waiting windows."""
        with self._lock:
            self._open.pop(request, None)
        self._queue.drop(request)

    def _read(self, request: Request) -> None:
        try:
            if request.id in self._open:
                self._begin(request)
        except Exception as error:
            self._fail(request.id, error)

    def _begin(self, request: Request) -> None:
        samples = read_sound(request.path)
        language = request.language or self._language(samples, request.among)
        space = "" if language in CER_TOKENS and not request.translate else " "
        seconds = len(samples) / SAMPLE_RATE
        begun = Begun(language=language, seconds=seconds, separator=space)
        if request.detect_only:
            self._say(Answer(id=request.id, begun=begun))
            self._finish(request.id)
            return
        labels = self._decoder.labels.speaking(language)
        prompt = labels.translation_prompt() if request.translate else labels.prompt
        options = Options(
            language=language,
            prompt=tuple(labels.with_context(prompt, request.prompt)),
            temperature=request.temperature,
            translate=request.translate,
            times=request.times,
        )
        # Raises before anything is queued if this machine cannot decode such a request.
        self._variant(options)
        bounds = piece_bounds(samples, self._decoder.config.limits.seconds) if len(samples) else []
        windows = [AudioWindow(samples[start:end], start / SAMPLE_RATE) for start, end in bounds]
        if request.terms and self._decoder.engine is None:
            raise UsageError(
                "glossary: CTranslate2 cannot use the GPU, and PyTorch decodes without terms: "
                "leave the field out, or let the server use the device cpu"
            )
        self._say(Answer(id=request.id, begun=begun))
        if not windows:
            self._finish(request.id)
            return
        files = [it for it in request.glossaries if it.language in (None, language)]
        # PyTorch decodes without them.
        unused = request.translate or self._decoder.engine is None
        if unused or not (files or request.terms):
            self._wait(request.id, options, windows)
            return

        def use(found: OpenBook | None) -> None:
            with_book = options
            if found is not None:
                with_book = replace(options, book_key=found.key, book=found.book)
            try:
                self._wait(request.id, with_book, windows)
            except Exception as error:
                self._fail(request.id, error)

        # The index of a large glossary may have to be built; this thread reads other files.
        self._books.open(files, request.terms, language, use)

    def _wait(self, request: int, options: Options, windows: list[AudioWindow]) -> None:
        """Queue the windows of a request that is still open."""
        with self._lock:
            if request not in self._open:
                return
            self._open[request] = _Open(len(windows))
        lengths = [len(it.samples) / SAMPLE_RATE for it in windows]
        self._queue.put(request, options, windows, lengths)
        with self._lock:
            left = request not in self._open
        if left:
            self._queue.drop(request)

    def _language(self, samples: Samples, among: tuple[str, ...]) -> str:
        """The language of the audio's first 30 s, as openai/whisper detects it."""
        own = self._decoder.config.language
        engine = self._decoder.engine
        if not among and not self._any_language:
            return own
        if len(among) == 1:
            return among[0]
        if engine is None:
            return own if own in among or not among else among[0]
        mel = self._decoder.mel([samples[:WINDOW_SAMPLES]])
        (ranked,) = engine.detect_language(ctranslate2.StorageView.from_array(mel))
        codes = [token.strip("<|>") for token, _ in ranked]
        return next((code for code in codes if not among or code in among), own)

    def _variant(self, options: Options) -> FastDecoder:
        """The decoder with the settings of some options."""
        config: DecodeConfig = self._decoder.config
        changes: dict[str, object] = {"language": options.language}
        if options.temperature > 0:
            changes["temperatures"] = (options.temperature,)
        return self._decoder.sharing(config.model_copy(update=changes), options.prompt)

    def _decode(self) -> None:
        """Decode batches until the queue is closed: the loop of a thread."""
        while (batch := self._queue.take()) is not None:
            with self._lock:
                batch = [it for it in batch if it.request in self._open]
            if not batch:
                continue
            try:
                self._decode_batch(batch)
            except Exception as error:
                for request in {it.request for it in batch}:
                    self._fail(request, error)

    def _decode_batch(self, batch: list[Queued[AudioWindow]]) -> None:
        options = batch[0].key
        if not isinstance(options, Options):
            raise TypeError("windows are queued with Options")
        decoder, began = self._variant(options), time.time()
        clips = [it.item.samples for it in batch]
        sounds = [Sound.of(clip) for clip in clips]
        if options.book is None:
            heard = decoder.decode(sounds, self.batch_windows)
        else:
            heard = decode_with_book(decoder, sounds, options.book, self.batch_windows)
        words: list[list[TimedWord]] = [[] for _ in batch]
        if options.times:
            labels = self._decoder.labels.speaking(options.language)
            texts = [it.text for it in heard]
            words = word_times(decoder, labels, clips, texts, options.translate)
        # Before the answers, because their clients come back at once.
        self._queue.decoded(batch, time.time() - began)
        for window, said, timed in zip(batch, heard, words, strict=True):
            piece = _piece(window.item, said, timed).model_copy(
                update={"queued_at": window.came, "begun_at": began, "decoded_at": time.time()}
            )
            self._add(window.request, window.place, piece, len(batch))

    def _add(self, request: int, place: int, piece: SpokenPiece, batch: int) -> None:
        """Send the piece, and later pieces that are ready."""
        with self._lock:
            found = self._open.get(request)
            if found is None:
                return
            found.pieces[place] = piece
            # Sent under the lock, so that two threads keep the order.
            while found.sent in found.pieces:
                piece = found.pieces.pop(found.sent)
                self._say(Answer(id=request, piece=piece, batch=batch))
                found.sent += 1
            done = found.sent == found.windows
        if done:
            self._finish(request)

    def _finish(self, request: int) -> None:
        with self._lock:
            known = self._open.pop(request, None)
        if known is not None:
            self._say(Answer(id=request, done=True))

    def _fail(self, request: int, error: Exception) -> None:
        with self._lock:
            known = self._open.pop(request, None)
        self._queue.drop(request)
        if not isinstance(error, LorajobError):
            log.error("request failed", exc_info=error)
        if known is not None:
            self._say(Answer(id=request, failure=failure_of(error)))


def failure_of(error: Exception) -> Failure:
    """The failure that a client sees: a LorajobError in full, of another error only the class."""
    if isinstance(error, LorajobError):
        return Failure(kind=error.kind, message=first_line(error))
    return Failure(kind="internal", message=f"decoding failed ({type(error).__name__})")


def _piece(window: AudioWindow, heard: Transcript, words: list[TimedWord]) -> SpokenPiece:
    start, seconds = window.start, len(window.samples) / SAMPLE_RATE
    moved = [
        it.model_copy(update={"start": it.start + start, "end": it.end + start}) for it in words
    ]
    return SpokenPiece(
        start=start,
        end=start + seconds,
        text=heard.text,
        words=moved,
        terms=list(heard.terms),
        temperature=heard.temperature,
        avg_logprob=heard.log_probability,
        compression_ratio=heard.compression_ratio if heard.text else 0.0,
        no_speech_prob=heard.no_speech,
    )
