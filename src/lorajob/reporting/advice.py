"""What to do next, from the findings of a job. Each rule gives one sentence or none."""

from lorajob.reporting.compare import FEW_CLIPS
from lorajob.reporting.findings import Findings

LITTLE_HOURS = 1.0
MOSTLY = 0.5  # share of the errors
HIGH_RATE = 40.0  # percent
GAP = 2.0  # percentage points


def advice(findings: Findings) -> list[str]:
    """Sentences, the most important first."""
    return [
        text
        for text in (
            _too_few_clips(findings),
            _worse(findings),
            _same_speakers(findings),
            _gap(findings),
            _insertions(findings),
            _more_data(findings),
        )
        if text
    ] + findings.warnings


def _too_few_clips(findings: Findings) -> str:
    count = len(findings.transcribed)
    if count >= FEW_CLIPS:
        return ""
    if len(findings.clips) >= FEW_CLIPS:
        return (
            f"{findings.after} is measured on {count} of {len(findings.clips)} test clips. A "
            "higher evaluate.delivered_minutes or evaluate.delivered_clips measures it on more."
        )
    return f"The test set has {count} clips. Add test clips until it has {FEW_CLIPS} or more."


def _worse(findings: Findings) -> str:
    change = findings.change
    if change is None or change.fewer > 0:
        return ""
    return (
        "The tuned model is not better than the base model. Check with `worst clips` below that "
        "texts and audio belong together, then try more clips or a lower train.learning_rate."
    )


def _same_speakers(findings: Findings) -> str:
    speakers, texts = findings.corpus.in_both.speakers, findings.corpus.in_both.texts
    if not speakers and not texts:
        return ""
    kinds = {"speaker": speakers, "sentence": texts}
    said = " and ".join(f"{n} {it}{'s' if n != 1 else ''}" for it, n in kinds.items() if n)
    new = " and ".join(f"{it}s" for it, n in kinds.items() if n)
    verb = "is" if speakers + texts == 1 else "are"
    return (
        f"{said} of the test set {verb} also in the training set. For new {new} the error rate is "
        "probably higher."
    )


def _gap(findings: Findings) -> str:
    rates = {it.name: findings.rate_of(it).value for it in findings.rates}
    if "delivered" not in rates or abs(rates["tuned"] - rates["delivered"]) <= GAP:
        return ""
    return (
        f"faster-whisper's defaults give {rates['delivered']:.1f} % where the fast decoder gives "
        f"{rates['tuned']:.1f} %. Use `lorajob transcribe`, or compare the transcripts below."
    )


def _insertions(findings: Findings) -> str:
    counts = [clip.heard[findings.after].counts(findings.metric) for clip in findings.transcribed]
    errors = sum(it.errors for it in counts)
    if not errors or sum(it.inserted for it in counts) <= MOSTLY * errors:
        return ""
    return (
        "Most errors are inserted words: the model repeats itself or speaks in silence. More "
        "epochs or more clips usually help."
    )


def _more_data(findings: Findings) -> str:
    rate = next((it for it in findings.rates if it.name == findings.after), None)
    train = findings.corpus.splits.get("train")
    if rate is None or train is None:
        return ""
    value = findings.rate_of(rate).value
    if value <= HIGH_RATE or train.hours >= LITTLE_HOURS:
        return ""
    return (
        f"The training set has {60 * train.hours:.0f} minutes. More speech, or a larger base "
        "model, helps more than other settings."
    )
