"""A model whose transcripts are given, for checks that hear one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lorajob.gate.hearing import Line, Manner, Word
from lorajob.gate.recordings import Recording
from lorajob.speech.audio import Samples


def lines(*texts: str, seconds: float = 2.0) -> list[Line]:
    """Segments of `seconds` each, one after the other."""
    return [
        Line(start=n * seconds, end=(n + 1) * seconds, text=text) for n, text in enumerate(texts)
    ]


def spoken(recording: Recording) -> list[Line]:
    """Segments and words exactly where the clips of a recording are spoken."""
    found = []
    for clip, (start, end) in zip(recording.clips, recording.speech, strict=True):
        texts = clip.reference.split()
        step = (end - start) / len(texts)
        words = [
            Word(start=start + n * step, end=start + (n + 1) * step, text=text)
            for n, text in enumerate(texts)
        ]
        found.append(Line(start=start, end=end, text=clip.reference, words=words))
    return found


def key(samples: Samples) -> str:
    """What a sound is known by in a script."""
    return hashlib.sha256(samples.tobytes()).hexdigest()


@dataclass
class Scripted:
    """A `Hearing` that says what `say` returns for each sound, and hears the languages `codes`.

    `codes` has Whisper codes by the `key` of a sound. All other sounds are Hindi.
    """

    say: Callable[[Samples], list[Line]] = lambda sound: []
    codes: Mapping[str, str] = field(default_factory=dict)

    def transcribe(
        self, sounds: Sequence[Samples], language: str, manner: Manner = "usual"
    ) -> list[list[Line]]:
        return [self.say(sound) for sound in sounds]

    def languages(self, sounds: Sequence[Samples]) -> list[str]:
        return [self.codes.get(key(sound), "hi") for sound in sounds]
