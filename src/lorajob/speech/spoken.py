"""Transcripts of files, with times."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpokenWord:
    """A word and its times in the file, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Passage:
    """A part of a transcript between two pauses, with its times in the file, in seconds.

    `words` is empty unless times of words were asked for.
    """

    start: float
    end: float
    text: str
    words: tuple[SpokenWord, ...] = ()


@dataclass(frozen=True)
class FileTranscript:
    """The transcript of one file of `seconds` seconds."""

    path: Path
    seconds: float
    text: str
    passages: tuple[Passage, ...]

    def __str__(self) -> str:
        return self.text
