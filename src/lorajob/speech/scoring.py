"""Word and character error rates, in percent, of hypotheses against references.

A rate is over the whole set: errors of all utterances divided by words (characters) of all
references. For normalised rates, `text.normalise` is applied to both sides; raw rates use the texts
as they stand. An utterance with an empty normalised reference has nothing to recognise. It is left
out of all rates and of `Scores.clips`.
"""

from collections.abc import Sequence
from typing import Any

import jiwer
import numpy as np
from numpy.typing import NDArray

from lorajob.job.results import Difference, Metric, Scores
from lorajob.speech.text import normalise

METRICS: tuple[Metric, ...] = ("wer", "cer")
FEW_CLIPS = 30  # under so many test clips the rates say little
SAMPLES = 1000  # of the bootstrap
FEWEST_SPEAKERS = 3  # known speakers from which speakers are drawn, not clips


def score(references: list[str], hypotheses: list[str], language: str = "") -> Scores:
    """Error rates over a set of utterances, in percent. `language` is for `text.normalise`.

    If no utterance can be scored, all rates and `clips` are 0. Raises ValueError if the lists
    differ in length.
    """
    pairs = _scored_pairs(references, hypotheses, language)
    if not pairs:
        return Scores(wer=0, cer=0, raw_wer=0, raw_cer=0, clips=0)
    wer, cer = _rates(
        [(normalise(said, language), normalise(heard, language)) for said, heard in pairs]
    )
    raw_wer, raw_cer = _rates(pairs)
    return Scores(wer=wer, cer=cer, raw_wer=raw_wer, raw_cer=raw_cer, clips=len(pairs))


def rate_of_set(
    references: Sequence[str],
    hypotheses: Sequence[str],
    metric: Metric = "wer",
    language: str = "",
) -> float:
    """One normalised rate, in percent: the same as that of `score`, in less time."""
    counts = _counts([*references], [*hypotheses], metric, None, language)
    if not len(counts):
        return 0.0
    errors, length = counts.sum(axis=0)
    return float(100 * errors / length)


def score_with_intervals(
    references: list[str],
    hypotheses: list[str],
    speakers: Sequence[str],
    seed: int,
    language: str = "",
) -> Scores:
    """As `score`, with the intervals of the normalised rates.

    They are None if fewer than two clips can be scored, as nothing is known of others then.
    """
    scores = score(references, hypotheses, language)
    given = SAMPLES, seed, language, speakers
    intervals = {
        f"{metric}_interval": (
            interval(references, hypotheses, metric, *given) if scores.clips > 1 else None
        )
        for metric in METRICS
    }
    return scores.model_copy(update=intervals)


def utterance_rows(
    ids: list[str], references: list[str], hypotheses: list[str], language: str = ""
) -> list[dict[str, object]]:
    """One row for each utterance: both texts, normalised rates in percent, and word errors.

    If the normalised reference is empty, the rates are 0 for an empty hypothesis, else 100. Raises
    ValueError if the lists differ in length.
    """
    rows = []
    for name, reference, hypothesis in zip(ids, references, hypotheses, strict=True):
        said, heard = normalise(reference, language), normalise(hypothesis, language)
        words = jiwer.process_words(said, heard)
        empty = 100.0 * bool(heard)
        rows.append(
            {
                "id": name,
                "reference": reference,
                "hypothesis": hypothesis,
                "wer": 100 * words.wer if said else empty,
                "cer": 100 * jiwer.cer(said, heard) if said else empty,
                "errors": {
                    "substitutions": words.substitutions,
                    "deletions": words.deletions,
                    "insertions": words.insertions,
                },
            }
        )
    return rows


def interval(
    references: list[str],
    hypotheses: list[str],
    metric: Metric = "wer",
    samples: int = SAMPLES,
    seed: int = 0,
    language: str = "",
    speakers: Sequence[str] | None = None,
) -> tuple[float, float]:
    """The 95 % interval of a normalised rate, in percent, by bootstrap.

    It is given by percentiles of the rate over `samples` sets, drawn with replacement (Bisani and
    Ney, ICASSP 2004). Speakers are drawn if at least `FEWEST_SPEAKERS` are known, because clips of
    one speaker have similar rates; else clips. Clips of unknown speakers ("") are drawn one by one.
    Raises ValueError if the lists differ in length.
    """
    counts = _counts(references, hypotheses, metric, speakers, language)
    if not len(counts):
        return 0.0, 0.0
    return _interval(counts, samples, seed)


def difference(
    references: list[str],
    before: list[str],
    after: list[str],
    metric: Metric = "wer",
    samples: int = SAMPLES,
    seed: int = 0,
    language: str = "",
    speakers: Sequence[str] | None = None,
) -> Difference:
    """How much lower the rate of `after` is than that of `before` on the same clips, in points.

    The interval is that of the paired difference: each drawn set counts for both. Clips or speakers
    are drawn as for `interval`. Raises ValueError if the lists differ in length.
    """
    first = _counts(references, before, metric, speakers, language)
    second = _counts(references, after, metric, speakers, language)
    if not len(first):
        return Difference(points=0, interval=(0, 0), metric=metric)
    both = np.column_stack([first[:, 0] - second[:, 0], first[:, 1]])
    fewer, length = both.sum(axis=0)
    around = _interval(both, samples, seed)
    return Difference(points=float(100 * fewer / length), interval=around, metric=metric)


def _counts(
    references: list[str],
    hypotheses: list[str],
    metric: Metric,
    speakers: Sequence[str] | None,
    language: str,
) -> NDArray[np.int64]:
    """int64 [groups, 2]: errors and length of each clip, or of each speaker if enough are known."""
    pairs = list(zip(references, hypotheses, strict=True))
    known = set(speakers or ()) - {""}
    by_speaker = speakers if speakers is not None and len(known) >= FEWEST_SPEAKERS else None
    groups: dict[object, NDArray[np.int64]] = {}
    for place, (said, heard) in enumerate(pairs):
        if not normalise(said, language):
            continue
        counted = np.array(errors_and_length(said, heard, metric, language), dtype=np.int64)
        key: object = (by_speaker[place] if by_speaker is not None else "") or place
        groups[key] = groups.get(key, np.zeros(2, np.int64)) + counted
    return np.array(list(groups.values()), dtype=np.int64).reshape(-1, 2)


def _interval(counts: NDArray[np.int64], samples: int, seed: int) -> tuple[float, float]:
    """The middle 95 % of the rates, in percent, of sets of rows drawn with replacement.

    A row of `counts` is the errors and the length of a clip or a speaker. A set has as many rows.
    """
    random = np.random.default_rng(seed)
    drawn = [random.integers(len(counts), size=len(counts)) for _ in range(samples)]
    sums = np.array([counts[rows].sum(axis=0) for rows in drawn], dtype=np.int64)
    low, high = np.percentile(100 * sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return float(low), float(high)


def _scored_pairs(
    references: list[str], hypotheses: list[str], language: str
) -> list[tuple[str, str]]:
    pairs = zip(references, hypotheses, strict=True)
    return [(said, heard) for said, heard in pairs if normalise(said, language)]


def _rates(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    references = [said for said, _ in pairs]
    hypotheses = [heard for _, heard in pairs]
    words, characters = (
        jiwer.process_words(references, hypotheses),
        jiwer.process_characters(references, hypotheses),
    )
    return 100 * words.wer, 100 * characters.cer


def errors_and_length(
    reference: str, hypothesis: str, metric: str, language: str
) -> tuple[int, int]:
    """The errors of one normalised hypothesis, and the length of its reference, in the units of
    `metric`: words or characters.
    """
    said, heard = normalise(reference, language), normalise(hypothesis, language)
    found: Any
    if metric == "wer":
        found = jiwer.process_words(said, heard)
    else:
        found = jiwer.process_characters(said, heard)
    wrong = found.substitutions + found.deletions
    return wrong + found.insertions, wrong + found.hits


def few_clips(delivered: Scores, metric: Metric) -> list[str]:
    """A warning if the rates are of so few clips that they say little."""
    clips = delivered.clips
    if clips >= FEW_CLIPS:
        return []
    words = f"{clips} test clip{' says' if clips == 1 else 's say'} little"
    if clips > 1 and (around := delivered.interval(metric)) is not None:
        rate = "word error rate" if metric == "wer" else "character error rate"
        low, high = around
        words += f": by the clips drawn, the {rate} is between {low:.0f} and {high:.0f} %"
    return [f"{words}; test on {FEW_CLIPS} clips or more, better 200"]
