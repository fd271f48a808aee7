"""The window that Whisper's encoder sees at once, in seconds, samples and encoder frames."""

from lorajob.speech.audio import SAMPLE_RATE

WINDOW_SECONDS = 30.0  # what Whisper's encoder sees at once
WINDOW_SAMPLES = round(SAMPLE_RATE * WINDOW_SECONDS)
CUT_MARGIN_SECONDS = 0.5  # silence behind the longest clip where windows are cut
FRAMES_A_SECOND = 50  # of the encoder: one for two of the log-mel's, by its convolutions' stride
FRAME_SAMPLES = SAMPLE_RATE // FRAMES_A_SECOND


def encoder_frames(samples: int) -> int:
    """Frames of a window that is cut behind a clip of so many samples at 16 kHz, half a second of
    silence included.
    """
    heard = samples + round(CUT_MARGIN_SECONDS * FRAMES_A_SECOND * FRAME_SAMPLES)
    return min(round(WINDOW_SECONDS * FRAMES_A_SECOND), -(-heard // FRAME_SAMPLES))
