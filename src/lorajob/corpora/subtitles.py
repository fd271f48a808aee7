"""Parses subtitles, SubRip (.srt) and WebVTT (.vtt), and plain text."""

import html
import re
from dataclasses import dataclass

from lorajob.corpora.spans import seconds
from lorajob.corpora.timed import Part

_TIMES = re.compile(r"\s*([\d:]+[.,]\d+|[\d:]+)\s*-->\s*([\d:]+[.,]\d+|[\d:]+)")
_LABEL = re.compile(r"\ufeff?(\d+[.,]\d+)\t(\d+[.,]\d+)(?:\t(.*))?")
_VOICE = re.compile(r"<v(?:\.[^ >]*)? ([^>]+)>")
_INNER = re.compile(r"<((?:\d+:)+\d+\.\d+)>")  # the time of the words behind it, in WebVTT
_TAG = re.compile(r"</?[a-zA-Z][^>]*>|<[\d:.]+>|\{\\[^}]*\}")


@dataclass(frozen=True)
class Cue:
    """A text and its times in seconds."""

    start: float
    end: float | None
    text: str
    speaker: str = ""
    start_slack: float = 0.0  # seconds by which the start may move to a pause
    end_slack: float = 0.0
    parts: tuple[Part, ...] = ()  # its words, if their times are known


def read_subtitles(text: str) -> list[Cue]:
    """The cues of a .srt or .vtt file, without tags. Raises ValueError if it has none."""
    cues = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\ufeff\n").split("\n")
        # A number or a name may stand before the times.
        at = next((n for n, line in enumerate(lines[:2]) if _TIMES.match(line)), None)
        if at is None:
            continue
        match = _TIMES.match(lines[at])
        if match is None:
            continue
        said = "\n".join(lines[at + 1 :])
        voice = _VOICE.search(said)
        speaker = voice[1].strip() if voice else ""
        start, end = seconds(match[1]), seconds(match[2])
        cues.append(Cue(start, end, _plain(said), speaker, parts=_inner_parts(said, start, end)))
    if not cues:
        raise ValueError("no cue with times")
    return cues


def _plain(said: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", said)).split())


def _inner_parts(said: str, start: float, end: float) -> tuple[Part, ...]:
    """The words of a cue of WebVTT between its inner times; empty if it has none."""
    first, *rest = _INNER.split(said)
    texts = [first, *rest[1::2]]
    starts = [start, *map(seconds, rest[::2])]
    ends = [*starts[1:], end]
    found = [Part(_plain(text), *times) for text, *times in zip(texts, starts, ends, strict=True)]
    return tuple(it for it in found if it.text) if rest else ()


def read_labels(text: str) -> list[Cue] | None:
    """The cues of a label track as Audacity exports it; None if the text is no such file.

    A line is start, end and text, divided by tabs. A line that begins with a backslash has
    frequencies.
    """
    cues = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("\\"):
            continue
        match = _LABEL.fullmatch(line)
        if match is None:
            return None
        start, end = (float(it.replace(",", ".")) for it in match.group(1, 2))
        cues.append(Cue(start, end, " ".join((match[3] or "").split())))
    return cues or None


def decode_text(data: bytes) -> str:
    """The text of a file in UTF-8 or, with a byte order mark, UTF-16. Raises ValueError."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    return data.decode("utf-8-sig")
