"""Transcribe files with a finished job's model, as it was scored.

The settings are those that travel with the model (`lorajob.json`). Features are faster-whisper's
own, which load much faster than torch.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajob.book.decode import Book, decode_with_book
from lorajob.book.index import TermIndex
from lorajob.book.terms import Glossary
from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fast import BATCH_WINDOWS, FastDecoder, Sound
from lorajob.decoding.long_form import joint, piece_bounds
from lorajob.decoding.words import word_times
from lorajob.errors import CorpusError, ModelError
from lorajob.speech.audio import SAMPLE_RATE, AudioError, Samples
from lorajob.speech.long_audio import load_any_length
from lorajob.speech.spoken import FileTranscript, Passage, TimedWord

WAITING_SECONDS = 600.0  # audio held in memory to be sorted by length; 40 MB


@dataclass(frozen=True)
class _Waiting:
    """A file that was read, and the (start, end) of its pieces in samples."""

    path: Path
    samples: Samples
    bounds: list[tuple[int, int]]


def transcribe(
    model: Path, audio: Iterable[Path], config: DecodeConfig
) -> Iterator[tuple[Path, str]]:
    """Yield (file, text) for each audio file, of any length, in their order.

    A file longer than a window is split in its pauses. Raises CorpusError for a file that
    cannot be decoded, after yielding the files before it.
    """
    for heard in transcribe_files(model, audio, config):
        yield heard.path, heard.text


def transcribe_files(
    model: Path,
    audio: Iterable[Path],
    config: DecodeConfig,
    words: bool = False,
    unreadable: Callable[[CorpusError], None] | None = None,
    done: Callable[[float], None] = lambda files: None,
    glossary: Glossary | None = None,
) -> Iterator[FileTranscript]:
    """The same, with the times of the pieces that a file was split into, and with `words` of words.

    Terms of the `glossary` are written where the audio allows them. `unreadable` hears of files
    that cannot be decoded, which are then left out. `done` hears how many files are decoded, with
    fractions.
    """
    decoder = FastDecoder(model, config)
    book = None
    if glossary is not None and glossary.terms:
        if decoder.engine is None:
            raise ModelError(
                "CTranslate2 cannot use the GPU, and PyTorch decodes without a glossary; "
                "`lorajob doctor` says what to install"
            )
        book = Book(config.language, TermIndex(glossary, config.language))
    waiting: list[_Waiting] = []
    seconds, finished = 0.0, 0

    def heard() -> Iterator[FileTranscript]:
        yield from _hear(decoder, waiting, words, book, lambda share: done(finished + share))

    for path in audio:
        try:
            samples = _read(path)
        except CorpusError as error:
            if unreadable is None:
                yield from heard()
                raise
            unreadable(error)
            finished += 1
            continue
        waiting.append(_Waiting(path, samples, piece_bounds(samples, config.limits.seconds)))
        seconds += len(samples) / SAMPLE_RATE
        if seconds >= WAITING_SECONDS:
            yield from heard()
            finished += len(waiting)
            waiting, seconds = [], 0.0
    yield from heard()


def _read(path: Path) -> Samples:
    """The samples of a file at 16 kHz. Raises CorpusError."""
    try:
        return load_any_length(path)
    except AudioError as error:
        raise CorpusError(f"{path}: cannot be transcribed: {error}") from None


def _hear(
    decoder: FastDecoder,
    files: Sequence[_Waiting],
    words: bool,
    book: Book | None,
    done: Callable[[float], None],
) -> Iterator[FileTranscript]:
    """Decode files. Similar pieces share a batch. `done` gets the number of decoded files."""
    space = joint(decoder.config.language)
    clips = [it.samples[start:end] for it in files for start, end in it.bounds]
    share = len(files) / max(1, len(clips))
    sounds = [Sound.of(it) for it in clips]
    if book is None:
        heard = decoder.decode(sounds, done=lambda n: done(n * share))
    else:
        heard = decode_with_book(decoder, sounds, book, done=lambda n: done(n * share))
    texts = [it.text for it in heard]
    timed = iter(_times(decoder, clips, texts) if words else [[] for _ in clips])
    said = iter(heard)
    for file in files:
        passages, terms = [], list[str]()
        for first, last in file.bounds:
            one, found = next(said), next(timed)
            terms += one.terms
            start, end = first / SAMPLE_RATE, last / SAMPLE_RATE
            if one.text:
                moved = tuple(_moved(it, start) for it in found)
                passages.append(Passage(start, end, one.text, moved))
        yield FileTranscript(
            file.path,
            len(file.samples) / SAMPLE_RATE,
            space.join(it.text for it in passages),
            tuple(passages),
            tuple(dict.fromkeys(terms)),
        )


def _times(
    decoder: FastDecoder, clips: Sequence[Samples], texts: Sequence[str]
) -> list[list[TimedWord]]:
    """The words of each text with their times in its clip."""
    found: list[list[TimedWord]] = []
    for at in range(0, len(clips), BATCH_WINDOWS):
        part = slice(at, at + BATCH_WINDOWS)
        found += word_times(decoder, decoder.labels, clips[part], texts[part])
    return found


def _moved(word: TimedWord, seconds: float) -> TimedWord:
    return word.model_copy(update={"start": word.start + seconds, "end": word.end + seconds})
