"""Decides whether a clip can be used, for preprocessing and for the check of a corpus."""

from collections.abc import Callable
from dataclasses import dataclass

from lorajob.corpora.clip import Clip
from lorajob.corpora.pieces import Piece
from lorajob.corpora.tables import text_fault
from lorajob.spec import PreprocessConfig
from lorajob.spec_training import TextConfig
from lorajob.speech import audio, levels
from lorajob.speech.text import normalise
from lorajob.speech.written import written

EMPTY_TEXT = "text empty after normalising"
LOST_TEXT = "text with characters that an earlier conversion lost (U+FFFD)"
NO_PAUSE = "cut between two words without a pause"


@dataclass(frozen=True, slots=True)
class Examined:
    """A clip as it is trained on, or the `reason` why it is dropped; `detail` says more.

    `remarks` are what is wrong with a clip that is kept.
    """

    text: str
    tokens: int = 0
    seconds: float = 0.0
    samples: audio.Samples | None = None
    reason: str | None = None
    detail: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What clips are checked by. `count` counts the tokens of a text."""

    config: PreprocessConfig
    text: TextConfig
    count: Callable[[str], int]
    language: str


def examine(piece: Piece, wanted: Wanted) -> Examined:
    """Decode and check one clip. The cheap checks come first."""
    config = wanted.config
    found = examine_text(piece.clip, wanted)
    if found.reason:
        return found
    text, tokens = found.text, found.tokens
    try:
        cut = piece.cut(config.max_seconds)
        samples = piece.samples(config.max_seconds) if cut is None else cut.mono()
    except audio.AudioError as error:
        return Examined(text, tokens, reason=error.reason, detail=error.detail)
    seconds = len(samples) / audio.SAMPLE_RATE
    if not len(samples):
        return Examined(text, tokens, reason=audio.NO_SOUND, detail="it ends behind its header")
    if reason := too_short(seconds, config):
        return Examined(text, tokens, reason=reason, detail=f"{seconds:.2f} s")
    if levels.has_no_sound(samples):
        return Examined(text, tokens, reason=levels.SILENT, detail=f"{seconds:.2f} s")
    remarks = (*found.remarks, *levels.remarks(samples))
    if cut is not None and cut.in_speech:
        remarks = (*remarks, NO_PAUSE)
    return Examined(text, tokens, seconds, samples, remarks=remarks)


def examine_text(clip: Clip, wanted: Wanted) -> Examined:
    """Check the text of a clip alone. The text is in the form that the job wants."""
    form = written(clip.text, wanted.text, wanted.language)
    text, most = form.text, wanted.config.max_label_tokens
    fault, detail = clip.fault or text_fault(text), ""
    if not fault and "\ufffd" in text:
        fault, detail = LOST_TEXT, repr(clip.text[:40])
    tokens = 0 if fault else wanted.count(text)
    if not fault and not normalise(text, wanted.language):
        fault, detail = EMPTY_TEXT, repr(clip.text[:40])
    elif not fault and tokens > most:
        fault, detail = f"over {most} label tokens", f"{tokens} tokens"
    return Examined(text, tokens, reason=fault or None, detail=detail, remarks=form.remarks)


def too_short(seconds: float, config: PreprocessConfig) -> str | None:
    """The reason for dropping a clip that is too short; None if it is not."""
    return f"under {config.min_seconds:g} s" if seconds < config.min_seconds else None
