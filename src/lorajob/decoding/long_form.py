"""Splits long audio into pieces, which are decoded like the test clips.

Silero's voice activity detection, which faster-whisper carries, finds the speech. Pieces
begin and end in pauses. Loads no torch.
"""

from pathlib import Path

from faster_whisper.vad import VadOptions, get_speech_timestamps

from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fast import Sound, decode
from lorajob.languages import find_language
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.whisper.window import CUT_MARGIN_SECONDS, WINDOW_SECONDS

# Cut windows add half a second of silence behind a piece.
LONGEST_PIECE = round((WINDOW_SECONDS - CUT_MARGIN_SECONDS) * SAMPLE_RATE) - 1
# Speech is joined across pauses up to the length of the training clips, within these bounds. A
# model trained on single clips makes more errors on longer pieces (bench/RESULTS.md).
SHORTEST_USUAL, LONGEST_USUAL = 5.0, 15.0  # seconds
OPTIONS = VadOptions(
    threshold=0.35,
    min_silence_duration_ms=300,
    speech_pad_ms=200,
    max_speech_duration_s=LONGEST_PIECE / SAMPLE_RATE,
)


def split(samples: Samples, clip_seconds: float = LONGEST_USUAL) -> list[Samples]:
    """Pieces of at most 30 s, in order, with all speech of `samples`. A short file is one piece.

    `clip_seconds` is the length of the model's longer training clips.
    Pauses between pieces are left out. Audio in which no speech is found is kept whole.
    """
    return [samples[start:end] for start, end in piece_bounds(samples, clip_seconds)]


def piece_bounds(samples: Samples, clip_seconds: float = LONGEST_USUAL) -> list[tuple[int, int]]:
    """The (start, end) of these pieces, in samples."""
    if len(samples) <= LONGEST_PIECE:
        return [(0, len(samples))]
    usual = round(SAMPLE_RATE * min(LONGEST_USUAL, max(SHORTEST_USUAL, clip_seconds)))
    spoken = [(it["start"], it["end"]) for it in get_speech_timestamps(samples, OPTIONS)]
    whole = [(0, len(samples))]
    return join_spoken(spoken or whole, usual)


def transcribe_long(model: Path, config: DecodeConfig, samples: Samples) -> str:
    """The text of one sound of any length, as `lorajob transcribe` writes it."""
    pieces = split(samples, config.limits.seconds)
    return joint(config.language).join(decode(model, config, [Sound.of(it) for it in pieces]))


def joint(language: str) -> str:
    """What stands between the texts of two pieces: nothing in scripts without spaces."""
    return "" if find_language(language).primary_metric == "cer" else " "


def join_spoken(spoken: list[tuple[int, int]], usual: int) -> list[tuple[int, int]]:
    """Join neighbouring (start, end), in samples, up to `usual`; divide what is too long."""
    joined: list[tuple[int, int]] = []
    for start, end in spoken:
        while end - start > LONGEST_PIECE:
            joined.append((start, start + LONGEST_PIECE))
            start += LONGEST_PIECE
        if joined and end - joined[-1][0] <= usual:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined
