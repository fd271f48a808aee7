"""Transcripts of files, with times."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class TimedWord(BaseModel):
    """A word of a transcript, with its times in seconds of the whole audio."""

    model_config = ConfigDict(frozen=True)

    word: str
    start: float
    end: float
    tokens: list[int] = []


@dataclass(frozen=True)
class Passage:
    """A part of a transcript between two pauses, with its times in the file, in seconds.

    `words` is empty unless times of words were asked for.
    """

    start: float
    end: float
    text: str
    words: tuple[TimedWord, ...] = ()


@dataclass(frozen=True)
class FileTranscript:
    """The transcript of one file of `seconds` seconds."""

    path: Path
    seconds: float
    text: str
    passages: tuple[Passage, ...]
    terms: tuple[str, ...] = ()
    """Terms of a glossary that are in the text because the audio allows them."""

    def __str__(self) -> str:
        return self.text
