"""A model whose transcripts are given, for checks that hear one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorajob.gate.hearing import Line
from lorajob.speech.audio import Samples


def lines(*texts: str, seconds: float = 2.0) -> list[Line]:
    """Segments of `seconds` each, one after the other."""
    return [
        Line(start=n * seconds, end=(n + 1) * seconds, text=text) for n, text in enumerate(texts)
    ]


@dataclass
class Scripted:
    """A `Hearing` that says what `say` returns for each sound, in the language `code`."""

    say: Callable[[Samples], list[Line]] = lambda sound: []
    code: str = "hi"

    def transcribe(
        self, sounds: Sequence[Samples], language: str, words: bool = False
    ) -> list[list[Line]]:
        return [self.say(sound) for sound in sounds]

    def languages(self, sounds: Sequence[Samples]) -> list[str]:
        return [self.code for _ in sounds]
