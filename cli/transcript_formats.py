"""Transcripts as txt, srt, vtt, json and tsv."""

import json
from typing import TYPE_CHECKING

from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.server.formats import Segment
    from lorajob.speech.spoken import FileTranscript, TimedWord

FORMATS = ("txt", "srt", "vtt", "json", "tsv")
CUT_BY_WORDS = ("srt", "vtt", "tsv")  # subtitles of a length that people can read


def parse_formats(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The formats that --output-format names, repeated or with commas. Raises UsageError."""
    named = [word.strip().lower() for text in texts for word in text.split(",")]
    for word in named:
        if word not in (*FORMATS, "all"):
            allowed = ", ".join((*FORMATS, "all"))
            raise UsageError(f"--output-format: {word!r} is unknown; allowed: {allowed}")
    return FORMATS if "all" in named else tuple(it for it in FORMATS if it in named)


def render_transcript(
    heard: "FileTranscript", kind: str, language: str, shown: str, words: bool
) -> str:
    """The content of a file of one format. `shown` is the name of the audio."""
    from lorajob.server.formats import VTT_HEAD, segments, srt, vtt
    from lorajob.serving.models import SpokenPiece

    if kind == "txt":
        return "".join(f"{it.text}\n" for it in heard.passages)
    pieces = [
        SpokenPiece(start=it.start, end=it.end, text=it.text, words=list(it.words))
        for it in heard.passages
    ]
    found = segments(pieces)
    if kind == "srt":
        return srt(found)
    if kind == "vtt":
        return VTT_HEAD + vtt(found)
    if kind == "tsv":
        return _tsv(found)
    return _json(heard, found, language, shown, words)


def _tsv(found: "list[Segment]") -> str:
    """openai/whisper's: start and end in milliseconds, and the text."""
    rows = [
        f"{round(1000 * it.start)}\t{round(1000 * it.end)}\t{' '.join(it.text.split())}\n"
        for it in found
    ]
    return "".join(["start\tend\ttext\n", *rows])


def _json(
    heard: "FileTranscript", found: "list[Segment]", language: str, shown: str, words: bool
) -> str:
    """openai/whisper's keys, and `audio` and `duration`."""
    values = {
        "audio": shown,
        "duration": round(heard.seconds, 3),
        "language": language,
        "text": heard.text,
        "segments": [_segment(number, it, words) for number, it in enumerate(found)],
    }
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _segment(number: int, segment: "Segment", words: bool) -> dict[str, object]:
    """A segment; with `words`, those that begin in it."""
    values: dict[str, object] = {
        "id": number,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
    }
    if words:
        inside = [it for it in segment.piece.words if segment.start <= it.start <= segment.end]
        values["words"] = [timed(it) for it in inside]
    return values


def timed(word: "TimedWord") -> dict[str, object]:
    """A word with its times, for JSON."""
    return {"word": word.word, "start": round(word.start, 3), "end": round(word.end, 3)}
