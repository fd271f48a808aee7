"""Splits long audio into pieces that the fast decoder hears as it heard the test clips.

Silero's voice activity detection, which faster-whisper carries, finds where somebody speaks. Pieces
begin and end in pauses. Loads no torch.
"""

from faster_whisper.vad import VadOptions, get_speech_timestamps

from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.whisper.window import CUT_MARGIN_SECONDS, WINDOW_SECONDS

# Cut windows add half a second of silence behind a piece.
LONGEST_PIECE = round((WINDOW_SECONDS - CUT_MARGIN_SECONDS) * SAMPLE_RATE) - 1
# Speech is joined across pauses up to this length of a piece.
USUAL_PIECE = round(15.0 * SAMPLE_RATE)
OPTIONS = VadOptions(
    threshold=0.35,
    min_silence_duration_ms=300,
    speech_pad_ms=200,
    max_speech_duration_s=LONGEST_PIECE / SAMPLE_RATE,
)


def split(samples: Samples) -> list[Samples]:
    """Pieces of at most 30 s, in order, with all speech of `samples`. A short file is one piece.

    Pauses between pieces are left out. Audio in which no speech is found is kept whole.
    """
    if len(samples) <= LONGEST_PIECE:
        return [samples]
    spoken = [(it["start"], it["end"]) for it in get_speech_timestamps(samples, OPTIONS)]
    return [samples[start:end] for start, end in join_spoken(spoken or [(0, len(samples))])]


def join_spoken(spoken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join neighbouring (start, end), in samples, up to `USUAL_PIECE`; divide what is too long."""
    joined: list[tuple[int, int]] = []
    for start, end in spoken:
        while end - start > LONGEST_PIECE:
            joined.append((start, start + LONGEST_PIECE))
            start += LONGEST_PIECE
        if joined and end - joined[-1][0] <= USUAL_PIECE:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    return joined
