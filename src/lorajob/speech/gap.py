"""Why the same model has different error rates by faster-whisper and by lorajob's decoder."""

import zlib
from collections.abc import Sequence
from typing import Any

import jiwer

from lorajob.job.results import ERRORS_OF, Metric, Scores
from lorajob.languages import find_language
from lorajob.speech.scoring import rate_of_set
from lorajob.speech.text import normalise

ALLOWED_POINTS = 2.0
REPEATS = 2.4  # openai/whisper's threshold of the compression ratio
KINDS = ("insertions", "deletions", "substitutions")


def explain_gap(
    references: Sequence[str],
    fast: Sequence[str],
    delivered: Sequence[str],
    tuned: Scores,
    language: str = "",
) -> list[str]:
    """One sentence if the rate of `delivered` is over 2 points from that of `tuned`, else nothing.

    The rate is the WER, or the CER in scripts without spaces. The texts are of the clips that both
    decoders heard. `tuned` is of all test clips.
    """
    metric: Metric = find_language(language).primary_metric if language else "wer"
    there = rate_of_set(references, fast, metric, language)
    heard = rate_of_set(references, delivered, metric, language)
    usual = tuned.rate(metric)
    gap = heard - usual
    if abs(gap) <= ALLOWED_POINTS or not references:
        return []
    more = "more" if gap > 0 else "fewer"
    first = (
        f"delivered has {abs(gap):.1f} points {more} {ERRORS_OF[metric]} ({heard:.1f} %) than "
        f"tuned ({usual:.1f} %): "
    )
    if abs(heard - there) <= ALLOWED_POINTS:
        harder = "harder" if there > usual else "easier"
        return [
            f"{first}its {len(references)} clips are {harder}, lorajob's decoder has {there:.1f} % "
            f"on them"
        ]
    before, length = _errors(references, fast, metric, language)
    after, _ = _errors(references, delivered, metric, language)
    changes = {kind: 100 * (after[kind] - before[kind]) / max(1, length) for kind in KINDS}
    most = max(KINDS, key=lambda kind: changes[kind] * (1 if heard > there else -1))
    reason = (
        f"on the same {len(references)} clips lorajob's decoder has {there:.1f} %, and "
        f"{abs(changes[most]):.1f} points of the gap are {most}"
    )
    loops = sum(_repeats(text) for text in delivered), sum(_repeats(text) for text in fast)
    if max(loops):
        reason += f"; texts that repeat themselves: {loops[0]} against {loops[1]}"
    empty = sum(not text for text in delivered), sum(not text for text in fast)
    if max(empty):
        reason += f"; empty texts: {empty[0]} against {empty[1]}"
    return [f"{first}{reason}"]


def _errors(
    references: Sequence[str], hypotheses: Sequence[str], metric: Metric, language: str
) -> tuple[dict[str, int], int]:
    """The errors by kind, and the length of the references, in words or characters."""
    said, heard = [], []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if text := normalise(reference, language):
            said.append(text)
            heard.append(normalise(hypothesis, language))
    found: Any = (jiwer.process_words if metric == "wer" else jiwer.process_characters)(said, heard)
    length = found.hits + found.substitutions + found.deletions
    return {kind: int(getattr(found, kind)) for kind in KINDS}, int(length)


def compression_ratio(text: str) -> float:
    """Bytes of a text divided by its compressed bytes, as openai/whisper counts them."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _repeats(text: str) -> bool:
    return compression_ratio(text) > REPEATS
