"""Transcripts in the formats of OpenAI's interface: json, text, srt, vtt, verbose_json.

Segments are cut from the words of the pieces that were decoded, so that each can be read as a
subtitle. A piece without times of words is one segment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lorajob.serving.models import Begun, SpokenPiece

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
FORMATS: tuple[Format, ...] = ("json", "text", "srt", "verbose_json", "vtt")

LONGEST_SECONDS = 7.0  # of a subtitle: Netflix's timed text style guide
LONGEST_TEXT = 84  # characters: two lines of 42
PAUSE_SECONDS = 0.8  # between words, which ends a segment
ENDS = (".", "?", "!", "।", "॥", "。", "？", "！", "؟", "…", "።")


@dataclass(frozen=True)
class Segment:
    """A part of a transcript, with its times in seconds, and the piece that it was cut from."""

    start: float
    end: float
    text: str
    tokens: list[int]
    piece: SpokenPiece


def segments(pieces: Iterable[SpokenPiece]) -> list[Segment]:
    """The segments of pieces, in order, without empty ones."""
    return [it for piece in pieces for it in _of_piece(piece)]


def _of_piece(piece: SpokenPiece) -> list[Segment]:
    if not piece.text:
        return []
    places = _places(piece)
    if places is None:
        return [Segment(piece.start, piece.end, piece.text, [], piece)]
    parts: list[list[int]] = [[]]
    for number in range(len(piece.words)):
        if parts[-1] and _ends(piece, places, parts[-1], number):
            parts.append([])
        parts[-1].append(number)
    found = []
    for part in parts:
        words = [piece.words[it] for it in part]
        behind = places[part[-1] + 1] if part[-1] + 1 < len(places) else len(piece.text)
        # Cut from the text, so that its spaces stay as they are.
        text = piece.text[places[part[0]] : behind].strip()
        tokens = [token for word in words for token in word.tokens]
        end = max(words[0].start, words[-1].end)
        found.append(Segment(words[0].start, end, text, tokens, piece))
    return found


def _places(piece: SpokenPiece) -> list[int] | None:
    """Where each word begins in the text; None without words, or if one is not found."""
    places, behind = [], 0
    for word in piece.words:
        place = piece.text.find(word.word, behind)
        if place < 0:
            return None
        places.append(place)
        behind = place + len(word.word)
    if not places:
        return None
    return [0, *places[1:]]


def _ends(piece: SpokenPiece, places: Sequence[int], part: Sequence[int], following: int) -> bool:
    """Whether a segment of the words `part` ends before the word that follows."""
    first, last, word = (piece.words[it] for it in (part[0], part[-1], following))
    if word.start - last.end > PAUSE_SECONDS or last.word.endswith(ENDS):
        return True
    length = places[following] + len(word.word) - places[part[0]]
    return word.end - first.start > LONGEST_SECONDS or length > LONGEST_TEXT


def transcript_of(pieces: Iterable[SpokenPiece], separator: str) -> str:
    """The whole transcript."""
    return separator.join(it.text for it in pieces if it.text)


def srt(cues: Iterable[Segment], first: int = 1) -> str:
    """SubRip. Cues are numbered from `first`."""
    return "".join(
        f"{number}\n{_clock(it.start, ',')} --> {_clock(it.end, ',')}\n{it.text}\n\n"
        for number, it in enumerate(cues, first)
    )


def vtt(cues: Iterable[Segment]) -> str:
    """The cues of WebVTT, without the head."""
    return "".join(
        f"{_clock(it.start, '.')} --> {_clock(it.end, '.')}\n{_escaped(it.text)}\n\n" for it in cues
    )


VTT_HEAD = "WEBVTT\n\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, mark: str) -> str:
    millis = round(seconds * 1000)
    hours, rest = divmod(millis, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def usage(begun: Begun) -> dict[str, object]:
    """What the request used, in OpenAI's form."""
    return {"type": "duration", "seconds": round(begun.seconds, 3)}


def verbose(
    task: str,
    language: str,
    begun: Begun,
    pieces: Sequence[SpokenPiece],
    granularities: frozenset[str],
) -> dict[str, object]:
    """The body of verbose_json. `language` is the name of the text's language."""
    values: dict[str, object] = {
        "task": task,
        "language": language.lower(),
        "duration": round(begun.seconds, 3),
        "text": transcript_of(pieces, begun.separator),
        "usage": usage(begun),
    }
    if terms := dict.fromkeys(term for piece in pieces for term in piece.terms):
        values["glossary_terms"] = list(terms)
    if "segment" in granularities:
        found = segments(pieces)
        values["segments"] = [_segment(number, it) for number, it in enumerate(found)]
    if "word" in granularities:
        values["words"] = [
            {"word": it.word, "start": round(it.start, 3), "end": round(it.end, 3)}
            for piece in pieces
            for it in piece.words
        ]
    return values


def _segment(number: int, segment: Segment) -> dict[str, object]:
    piece = segment.piece
    return {
        "id": number,
        "seek": round(piece.start * 100),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": segment.tokens,
        "temperature": piece.temperature,
        "avg_logprob": round(piece.avg_logprob, 4),
        "compression_ratio": round(piece.compression_ratio, 4),
        "no_speech_prob": round(piece.no_speech_prob, 4),
    }
