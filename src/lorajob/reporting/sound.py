"""Sound for a page: clips as MP3, which every browser plays."""

import base64
import io

import soundfile

from lorajob.speech.audio import SAMPLE_RATE, Samples

QUALITY = 0.7  # 0 is best, 1 is smallest; speech stays clear at about 30 kbit/s


def as_mp3(samples: Samples) -> bytes:
    """Float32 mono samples at 16 kHz as MP3."""
    file = io.BytesIO()
    soundfile.write(
        file,
        samples,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=QUALITY,
        bitrate_mode="VARIABLE",
    )
    return file.getvalue()


def as_data_url(samples: Samples) -> str:
    """Float32 mono samples at 16 kHz as a `data:` URL of MP3."""
    return "data:audio/mpeg;base64," + base64.b64encode(as_mp3(samples)).decode()
