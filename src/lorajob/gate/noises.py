"""The guard against words that a model invents in sound without speech."""

from functools import cache

import numpy as np

from lorajob.gate.hearing import Hearing, Line
from lorajob.job.results import Guard
from lorajob.languages import find_language
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.noise import NoiseKind, noise
from lorajob.speech.text import normalise

SECONDS = 60
KINDS: tuple[NoiseKind, ...] = ("silence", "hum50", "white", "tones")
# The seed is fixed, so that the cache has the base model's transcripts for all jobs of a language.
SEED = 15


@cache
def noise_sounds() -> dict[NoiseKind, Samples]:
    """A minute of each kind of noise."""
    return {
        kind: noise(kind, SECONDS * SAMPLE_RATE, np.random.default_rng([SEED, number]))
        for number, kind in enumerate(KINDS)
    }


def check_noise(language: str, tuned: Hearing, base: Hearing, limit: float) -> Guard:
    """Words in a minute of each noise, against the base model. `language` is that of the job."""
    found = find_language(language)
    unit = "words" if found.primary_metric == "wer" else "characters"
    sounds = noise_sounds()
    heard = [
        dict(zip(sounds, model.transcribe([*sounds.values()], found.token, "brief"), strict=True))
        for model in (tuned, base)
    ]
    counts, before = (
        {kind: invented(lines, language, unit) for kind, lines in it.items()} for it in heard
    )
    worst = max(KINDS, key=lambda kind: counts[kind] - before[kind])
    told = ", ".join(f"{kind} {counts[kind]} (base {before[kind]})" for kind in KINDS)
    return Guard(
        name="noise",
        state="failed" if counts[worst] - before[worst] > limit else "passed",
        reason=f"{unit} invented in {SECONDS} s of each sound without speech: {told}; "
        f"at most {limit:g} more than the base are allowed",
        value=counts[worst],
        base=before[worst],
        limit=before[worst] + limit,
        unit=unit,
    )


def invented(lines: list[Line], language: str, unit: str) -> int:
    """The words or characters of a transcript, as `unit` says."""
    text = normalise(" ".join(line.text for line in lines), language)
    return len(text.split()) if unit == "words" else len(text.replace(" ", ""))
