"""Sentences in languages that Whisper knows well, and the clips of them that are shipped.

`python -m lorajob.demo.foreign` renders the clips again, with eSpeak NG of the extra `demo`.
`clips/README.md` names their licence.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from lorajob.demo.espeak import VOICES, Speaker
from lorajob.errors import InstallError
from lorajob.speech.audio import SAMPLE_RATE, AudioError, Samples, load_audio

CLIPS = Path(__file__).parent / "clips"
MOST_SECONDS = 10.0  # of a clip

# By Whisper's code, which is also eSpeak NG's. They are few, because each costs a CPU seconds.
FOREIGN_SENTENCES: Mapping[str, Sequence[str]] = {
    "en": (
        "The train to the city leaves at seven in the morning.",
        "My sister works in a small hospital near the river.",
        "We bought bread, milk and apples at the market.",
        "The children are playing in the garden behind the house.",
    ),
    "es": (
        "El tren para la ciudad sale a las siete de la mañana.",
        "Mi hermana trabaja en un pequeño hospital cerca del río.",
    ),
    "de": (
        "Der Zug in die Stadt fährt um sieben Uhr morgens ab.",
        "Meine Schwester arbeitet in einem kleinen Krankenhaus am Fluss.",
    ),
    "fr": (
        "Le train pour la ville part à sept heures du matin.",
        "Ma sœur travaille dans un petit hôpital près de la rivière.",
    ),
    "it": (
        "Il treno per la città parte alle sette del mattino.",
        "Mia sorella lavora in un piccolo ospedale vicino al fiume.",
    ),
    "pt": (
        "O trem para a cidade sai às sete horas da manhã.",
        "Minha irmã trabalha em um pequeno hospital perto do rio.",
    ),
}


@cache
def foreign_sounds() -> Mapping[str, list[Samples]]:
    """Whisper code -> the spoken sentences at 16 kHz, from the clips that are shipped.

    Raises InstallError if a clip is missing or damaged.
    """
    return {
        language: [_read(CLIPS / clip_name(language, turn)) for turn in range(len(sentences))]
        for language, sentences in FOREIGN_SENTENCES.items()
    }


def clip_name(language: str, turn: int) -> str:
    """The file of a sentence; `turn` counts the sentences of a language from 0."""
    return f"{language}_{turn + 1}.flac"


def _read(path: Path) -> Samples:
    try:
        return load_audio(path, MOST_SECONDS)
    except AudioError as error:
        raise InstallError(f"{path}: {error}; install lorajob again") from None


def rendered_sounds() -> dict[str, list[Samples]]:
    """The same sentences, spoken by eSpeak NG now.

    Raises MissingExtraError if the demo extra is not installed.
    """
    found: dict[str, list[Samples]] = {}
    with Speaker() as speaker:
        for number, (language, sentences) in enumerate(FOREIGN_SENTENCES.items()):
            found[language] = [
                soxr.resample(
                    speaker.say(text, language, VOICES[(number + turn) % len(VOICES)]),
                    speaker.sample_rate,
                    SAMPLE_RATE,
                )
                .astype(np.float32)
                .clip(-1, 1)
                for turn, text in enumerate(sentences)
            ]
    return found


def write_clips(folder: Path) -> None:
    """Render all clips into `folder`, as FLAC of 16 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, sounds in rendered_sounds().items():
        for turn, samples in enumerate(sounds):
            path = folder / clip_name(language, turn)
            soundfile.write(path, samples, SAMPLE_RATE, "PCM_16", compression_level=1.0)


if __name__ == "__main__":
    write_clips(CLIPS)
