"""Reads the audio of a request, of any length up to a limit, in any format of FFmpeg."""

from pathlib import Path

from lorajob.errors import UsageError
from lorajob.speech.audio import AudioError, Samples, over
from lorajob.speech.long_audio import load_any_length

MAX_HOURS = 4.0
MAX_SECONDS = 3600 * MAX_HOURS


def read_sound(path: Path) -> Samples:
    """The samples of a file at 16 kHz, as `lorajob transcribe` reads them.

    Raises UsageError for a file that is no audio, and for one of more than MAX_HOURS.
    """
    try:
        return load_any_length(path, MAX_SECONDS)
    except AudioError as error:
        if error.reason == over(MAX_SECONDS):
            raise UsageError(f"file: longer than {MAX_HOURS:g} hours; send it in parts") from None
        # The path on this machine means nothing to a client.
        said = str(error).replace(str(path), "the file")
        raise UsageError(f"file: cannot be decoded: {said}") from None
