"""Cuts texts over 30 s into clips, where the times of their words or sentences are known.

The cuts lie between two words. Each has a slack, in which the pause is looked for when the sound is
decoded (`speech/pauses.py`). Times of words are seldom exact to a tenth of a second.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorajob.corpora.spans import Span
from lorajob.corpora.tables import text_of
from lorajob.speech.written import is_word_sign

LONGEST_SECONDS = 30.0  # of a clip that is not cut
# Longest piece before its cuts move to pauses, and the least to which a cut is put off.
MOST_SECONDS, LEAST_SECONDS = 28.0, 10.0
SLACK_SECONDS = 0.5
NEAR_SECONDS = 0.3  # that a cut may move into a word, whose time is not exact
EDGE_SECONDS = 0.5  # of a long pause that stay beside the words
SENTENCE_BONUS = 0.3  # seconds that a pause counts for more at the end of a sentence
ENDS = ".?!…।॥。？！؟۔։።"
MISMATCH = "words with times that are not those of the text"
LISTS = ("words", "word_timestamps", "word_segments", "sentences", "segments", "chunks")
TEXTS = ("word", "text", "sentence", "punctuated_word")


@dataclass(frozen=True, slots=True)
class Part:
    """A word or a sentence, and its times in seconds in the recording. None: unknown."""

    text: str
    start: float | None
    end: float | None


@dataclass(frozen=True, slots=True)
class TimedText:
    """A clip's text, where it lies, and how far its ends may move to a pause, in seconds."""

    text: str
    start: float
    end: float | None
    start_slack: float = 0.0
    end_slack: float = 0.0


def parts_of(row: Mapping[str, object]) -> list[Part]:
    """The words or sentences with times of a JSON object; empty if it has none.

    They are in a list of objects with a text, and `start` and `end` or `timestamp`, as Whisper,
    WhisperX, whisper-timestamped and transformers write them. Sentences may have words of their
    own. A time that is no number is unknown.
    """
    for name in LISTS:
        listed = row.get(name)
        if isinstance(listed, list) and listed and all(isinstance(it, dict) for it in listed):
            found = [part for it in listed for part in parts_of(it) or _part(it)]
            if found:
                return found
    return []


def cut_long(text: str, span: Span, parts: Sequence[Part]) -> list[TimedText]:
    """The pieces of a text over LONGEST_SECONDS; the text itself if it is shorter or has no parts.

    The pieces' texts, joined, are `text`. Raises ValueError, in a few words, if the parts are not
    those of the text.
    """
    start, end = span
    last = max((it.end for it in parts if it.end is not None), default=start)
    if len(parts) < 2 or (last if end is None else end) - start <= LONGEST_SECONDS:
        return [TimedText(text, start, end)]
    parts = _placed(parts, start)
    texts = _texts(text, parts)
    found: list[TimedText] = []
    first, slack, begin = 0, 0.0, start
    for at in (*_boundaries(parts, start, end), len(parts) - 1):
        said = " ".join("".join(texts[first : at + 1]).split())
        if at == len(parts) - 1:
            found.append(TimedText(said, begin, end, slack))
            break
        stop, after, room = _cut(parts[at], parts[at + 1])
        found.append(TimedText(said, begin, stop, slack, room))
        first, slack, begin = at + 1, room, after
    return found


def _part(value: Mapping[str, object]) -> list[Part]:
    texts = [it for name in TEXTS if isinstance(it := value.get(name), str)]
    times = value.get("timestamp")
    if not isinstance(times, list) or len(times) != 2:
        times = [value.get("start"), value.get("end")]
    if not texts:
        return []
    start, end = (_time(it) for it in times)
    return [Part(texts[0], start, end)]


def _time(value: object) -> float | None:
    try:
        found = float(text_of(value) or "nan")
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _placed(parts: Sequence[Part], start: float) -> list[Part]:
    """The parts with times in the recording. Times may count from the text's own start."""
    first = next((it.start for it in parts if it.start is not None), start)
    if first >= start - SLACK_SECONDS:
        return list(parts)
    return [
        Part(
            it.text,
            None if it.start is None else it.start + start,
            None if it.end is None else it.end + start,
        )
        for it in parts
    ]


def _texts(text: str, parts: Sequence[Part]) -> list[str]:
    """The slice of the text of each part, with the punctuation behind it."""
    found, at = [], 0
    for part in parts:
        wanted, begin = _signs(part.text), at
        seen = ""
        while len(seen) < len(wanted) and at < len(text):
            seen += _signs(text[at])
            at += 1
        if seen != wanted:
            raise ValueError(MISMATCH)
        while at < len(text) and not _signs(text[at]) and not text[at].isspace():
            at += 1
        found.append(text[begin:at])
    if _signs(text[at:]):
        raise ValueError(MISMATCH)
    if found:
        found[-1] += text[at:]
    return found


def _signs(text: str) -> str:
    """The letters, marks and digits of a text, case folded."""
    return "".join(it for it in text.casefold() if is_word_sign(it))


def _boundaries(parts: Sequence[Part], start: float, end: float | None) -> Iterator[int]:
    """The parts behind which to cut: at the longest pause that leaves a piece long enough."""
    begin, first = start, 0
    whole = end if end is not None else max(it.end for it in parts if it.end is not None)
    while whole - begin > LONGEST_SECONDS:
        possible: list[tuple[float, float, int]] = []
        for at in range(first, len(parts) - 1):
            stop, after = parts[at].end, parts[at + 1].start
            if stop is None or after is None or stop <= begin or after < stop - SLACK_SECONDS:
                continue
            if stop - begin > MOST_SECONDS:
                break
            ends = parts[at].text.rstrip().endswith(tuple(ENDS))
            possible.append((after - stop + SENTENCE_BONUS * ends, stop - begin, at))
        # Nothing can be cut. The rest is dropped for its length.
        if not possible:
            return
        at = max([it for it in possible if it[1] >= LEAST_SECONDS] or possible)[2]
        yield at
        begin, first = _cut(parts[at], parts[at + 1])[1], at + 1


def _cut(before: Part, after: Part) -> tuple[float, float, float]:
    """Where a piece ends, where the next one begins, and how far both may move."""
    if before.start is None or before.end is None or after.start is None:
        raise ValueError(MISMATCH)
    gap = after.start - before.end
    if gap > 2 * EDGE_SECONDS:
        return before.end + EDGE_SECONDS, after.start - EDGE_SECONDS, 0.0
    middle = before.end + gap / 2
    after_middle = (
        after.start + NEAR_SECONDS if after.end is None else (after.start + after.end) / 2
    )
    low = max((before.start + before.end) / 2, before.end - NEAR_SECONDS)
    high = min(after_middle, after.start + NEAR_SECONDS)
    return middle, middle, max(0.0, min(middle - low, high - middle, SLACK_SECONDS))
