"""Chooses the weights of a model of text on clips that no training has heard, or none.

All pairs of weight and gain are tried. The rates that decide are those of a cross-validation: each
clip is scored with the weights that are best for the clips of the other folds. A model of text that
does not help by a paired test gets no weights.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.decoding.text_choice import Hypothesis, hypotheses, weigh
from lorajob.decoding.text_model import LanguageModel
from lorajob.job.results import Difference
from lorajob.languages import find_language
from lorajob.speech.scoring import difference, errors_and_length, rate_of_set
from lorajob.speech.text import normalise
from lorajob.whisper.base_check import LABEL_POSITIONS

BEAMS = 5
FOLDS = 4
WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
GAINS = (0.0, 1.0, 2.0, 3.0)  # nats of a character, times the weight
LEAST_CLIPS = 30  # with fewer, chance decides

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeardClips:
    """Clips with known texts: what the decoder hears alone, and its hypotheses.

    `plain` are the transcripts without a model of text.
    """

    references: list[str]
    speakers: list[str]
    plain: list[str]
    found: list[list[Hypothesis]]


@dataclass(frozen=True)
class Weighed:
    """What a model of text brings on clips. `weight` is None if it does not help.

    `plain`, `first`, `chosen` and `ideal` are rates in percent: of the decoder alone, of the most
    probable hypotheses, of the hypotheses that the model chose (by cross-validation), and of those
    with the fewest errors, which no model can be better than: of words, or of characters in scripts
    without spaces. `gained` is the smaller of the differences of `chosen` from the first two, in
    points of the rate of characters.
    """

    weight: float | None
    gain: float
    plain: float
    first: float
    chosen: float
    ideal: float
    gained: Difference
    clips: int


def hear(
    decoder: FastDecoder,
    sounds: Sequence[Sound],
    beams: int = BEAMS,
    done: Callable[[int], None] = lambda clips: None,
) -> list[list[Hypothesis]]:
    """The hypotheses of each sound by a search with `beams` beams, by CTranslate2."""
    count = 0

    def one(sound: Sound) -> list[Hypothesis]:
        limit = min(decoder.config.limits.of(sound.seconds), LABEL_POSITIONS - len(decoder.prompt))
        (result,) = decoder.engine.generate(
            decoder.encode(decoder.mel([sound.read()])),
            [decoder.prompt],
            beam_size=beams,
            num_hypotheses=beams,
            return_scores=True,
            max_length=max(2 * limit, limit + len(decoder.prompt)),
            suppress_blank=True,
        )
        return hypotheses(decoder.labels, result, limit)

    found = []
    with ThreadPoolExecutor(decoder.threads, "hypotheses") as pool:
        for heard in pool.map(one, sounds):
            found.append(heard)
            count += 1
            done(count)
    return found


def choose_weights(clips: HeardClips, model: LanguageModel, seed: int = 0) -> Weighed:
    """The weights with which `model` chooses best among the hypotheses of clips.

    The weights are those with the fewest errors of characters, which tell more of few clips than
    errors of words. The model helps if the whole 95 % interval of the difference of their rates is
    above 0, for drawn speakers and for drawn sentences, against the decoder alone and against the
    most probable hypothesis, and if the rate that counts for the language is not higher.
    """
    language = model.language
    metric = find_language(language).primary_metric
    weighed = [weigh(it, model) for it in clips.found]
    pairs = [(weight, weight * gain) for weight in WEIGHTS for gain in GAINS]
    each = [
        np.array([errors_and_length(said, text, "cer", language)[0] for text in it.texts])
        for said, it in zip(clips.references, weighed, strict=True)
    ]
    chosen = np.array([[it.best(*pair) for pair in pairs] for it in weighed])
    errors = np.array([of[row] for of, row in zip(each, chosen, strict=True)])
    places = [
        row[pair] for row, pair in zip(chosen, _by_fold(errors, clips.references), strict=True)
    ]
    after = [it.texts[place] for it, place in zip(weighed, places, strict=True)]
    first = [it.texts[0] for it in weighed]
    ideal = [it.texts[int(of.argmin())] for it, of in zip(weighed, each, strict=True)]

    def rate(texts: list[str]) -> float:
        return rate_of_set(clips.references, texts, metric, language)

    sentences = [normalise(it, language) for it in clips.references]
    gained = min(
        (
            difference(
                clips.references,
                before,
                after,
                "cer",
                seed=seed,
                language=language,
                speakers=drawn,
            )
            for before in (clips.plain, first)
            for drawn in (clips.speakers, sentences)
        ),
        key=lambda it: it.interval[0],
    )
    helps = len(first) >= LEAST_CLIPS and gained.interval[0] > 0
    helps = helps and rate(after) <= min(rate(clips.plain), rate(first))
    weight, gain = pairs[int(errors.sum(axis=0).argmin())]
    return Weighed(
        weight=weight if helps else None,
        gain=gain,
        plain=rate(clips.plain),
        first=rate(first),
        chosen=rate(after),
        ideal=rate(ideal),
        gained=gained,
        clips=len(first),
    )


def _by_fold(errors: NDArray[np.int64], sentences: Sequence[str]) -> NDArray[np.intp]:
    """For each clip the pair of weights with the fewest errors in the other folds.

    All clips of a sentence are in one fold. `errors` is int64 [clips, pairs].
    """
    numbers = {it: number for number, it in enumerate(dict.fromkeys(sentences))}
    fold = np.array([numbers[it] % FOLDS for it in sentences], np.intp)
    best = [int(errors[fold != it].sum(axis=0).argmin()) for it in range(FOLDS)]
    return np.array(best, np.intp)[fold]
