"""Parses Praat's TextGrid files, in the long and the short format."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lorajob.corpora.subtitles import Cue

# A string with doubled quotes, a number, or a flag. Other words are comments for people.
_TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|(?<![\w\[.])(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w\]])|(<\w+>)'
)
WORDS = re.compile(r"\bwords?\b|\bwrd\b", re.IGNORECASE)
PHONES = re.compile(r"phone|\bphn\b|syll|\bipa\b|tone|pitch|morph", re.IGNORECASE)
Tokens = Iterator[tuple[str, str, str]]
PAUSE_SECONDS = 0.5  # between two words: here a clip ends


@dataclass(frozen=True)
class Tier:
    """A tier of intervals."""

    name: str
    cues: list[Cue]


def read_textgrid(text: str) -> list[Tier]:
    """The interval tiers. Raises ValueError if the text is no TextGrid."""
    if "TextGrid" not in text[:200]:
        raise ValueError("no TextGrid")
    tokens = iter(_TOKEN.findall(text[text.index("TextGrid") + len('TextGrid"') :]))
    try:
        _numbers(tokens, 2)
        if next(tokens)[2] != "<exists>":
            return []
        count = int(_numbers(tokens, 1)[0])
        tiers = [_tier(tokens) for _ in range(count)]
    except StopIteration:
        raise ValueError("ends before its last interval") from None
    return [tier for tier in tiers if tier is not None]


def _tier(tokens: Tokens) -> Tier | None:
    kind, name = next(tokens)[0], next(tokens)[0]
    _numbers(tokens, 2)
    cues = []
    for _ in range(int(_numbers(tokens, 1)[0])):
        if kind == "IntervalTier":
            start, end = _numbers(tokens, 2)
            label = next(tokens)[0].replace('""', '"')
            cues.append(Cue(start, end, " ".join(label.split())))
        else:
            _numbers(tokens, 1)
            next(tokens)
    return Tier(name.replace('""', '"'), cues) if kind == "IntervalTier" else None


def _numbers(tokens: Tokens, count: int) -> list[float]:
    found = [next(tokens)[1] for _ in range(count)]
    if not all(found):
        raise ValueError("text where a number is expected")
    return [float(number) for number in found]


def join_words(cues: list[Cue]) -> list[Cue]:
    """Utterances of a tier of words. A pause of PAUSE_SECONDS ends one."""
    joined: list[Cue] = []
    for cue in cues:
        if not cue.text:
            continue
        last = joined[-1] if joined else None
        if last and last.end is not None and cue.start - last.end < PAUSE_SECONDS:
            joined[-1] = Cue(last.start, cue.end, f"{last.text} {cue.text}")
        else:
            joined.append(cue)
    return joined
