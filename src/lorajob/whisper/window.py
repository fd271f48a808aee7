"""The window of Whisper's encoder, in seconds, samples and encoder frames."""

from lorajob.speech.audio import SAMPLE_RATE

WINDOW_SECONDS = 30.0  # the encoder's input
WINDOW_SAMPLES = round(SAMPLE_RATE * WINDOW_SECONDS)
CUT_MARGIN_SECONDS = 0.5  # silence behind the longest clip of cut windows
FRAMES_A_SECOND = 50  # encoder frames; the stride of its convolutions halves the log-mel's 100
FRAME_SAMPLES = SAMPLE_RATE // FRAMES_A_SECOND
HOP_SAMPLES = FRAME_SAMPLES // 2  # of the log-mel
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES  # of the log-mel


def encoder_frames(samples: int) -> int:
    """Encoder frames of a window cut to a clip of `samples` at 16 kHz.

    They include half a second of silence behind the clip.
    """
    heard = samples + round(CUT_MARGIN_SECONDS * FRAMES_A_SECOND * FRAME_SAMPLES)
    return min(round(WINDOW_SECONDS * FRAMES_A_SECOND), -(-heard // FRAME_SAMPLES))
