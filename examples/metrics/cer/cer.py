"""Character error rate as lorajob counts it, for Hugging Face's `evaluate`.

    metric = evaluate.load("examples/metrics/cer")
    metric.compute(predictions=["..."], references=["..."], language="hi")

`language` is a code or name. With it, texts are compared as in lorajob's figures: NFC, case folded,
without punctuation, vowel signs kept. Without it, they are compared as they stand.
"""

from lorajob.speech import metrics


class CharacterErrors(metrics.CharacterErrorRate):
    """The rate in percent, and jiwer's counts. An empty reference is left out."""
