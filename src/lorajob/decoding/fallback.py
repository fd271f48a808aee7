"""Which transcripts are decoded again, and which one is kept: openai/whisper's rules."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from lorajob.decoding.config import DecodeConfig


@dataclass(frozen=True)
class Transcript:
    """A transcript, and the values that decide whether it is kept."""

    text: str
    tokens: int
    log_probability: float  # mean of a token, in nats
    no_speech: float  # probability
    temperature: float
    terms: tuple[str, ...] = ()
    """Of a glossary, which took the place of words that the first pass heard."""

    @property
    def compression_ratio(self) -> float:
        """Bytes of the text divided by its compressed bytes, as openai/whisper counts them."""
        text = self.text.encode()
        return len(text) / len(zlib.compress(text))


def trips(heard: Transcript, config: DecodeConfig) -> bool:
    """Whether a transcript has to be decoded again, by openai/whisper's rules."""
    if is_silent(heard, config):
        return False
    return _repeats(heard, config) or _improbable(heard, config)


def is_silent(heard: Transcript, config: DecodeConfig) -> bool:
    """Whether the audio has no speech: probably none, and an improbable transcript."""
    if config.no_speech is None or config.log_probability is None:
        return False
    return heard.no_speech > config.no_speech and _improbable(heard, config)


def best(tries: Sequence[Transcript], config: DecodeConfig) -> Transcript:
    """The most probable of the transcripts that all tripped; if possible one without repetition."""
    fluent = [it for it in tries if not _repeats(it, config)]
    return max(fluent or tries, key=lambda it: it.log_probability)


def emptied_if_silent(heard: Transcript, config: DecodeConfig) -> Transcript:
    """The transcript; empty if the audio is silent."""
    if not is_silent(heard, config):
        return heard
    return Transcript("", 0, heard.log_probability, heard.no_speech, heard.temperature)


def _repeats(heard: Transcript, config: DecodeConfig) -> bool:
    limit = config.compression_ratio
    return limit is not None and heard.compression_ratio > limit


def _improbable(heard: Transcript, config: DecodeConfig) -> bool:
    limit = config.log_probability
    return limit is not None and heard.log_probability < limit
