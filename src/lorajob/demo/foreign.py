"""Sentences in languages that Whisper knows well, spoken by eSpeak NG when they are needed.

The sentences were written for lorajob and have its licence. eSpeak NG always gives the same sound.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import soxr

from lorajob.demo.espeak import VOICES, Speaker
from lorajob.speech.audio import SAMPLE_RATE, Samples

# By Whisper's code, which is eSpeak NG's too. They are few, because each costs a CPU seconds.
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
    """Whisper code -> the spoken sentences at 16 kHz.

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
                ).astype(np.float32)
                for turn, text in enumerate(sentences)
            ]
    return found
