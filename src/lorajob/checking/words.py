"""The report of a check as text."""

import re
from collections.abc import Iterator

from lorajob.checking.model import CheckReport, CorpusFinding, SplitStatistics
from lorajob.languages import find_language

HEADER = ("split", "clips", "dropped", "hours", "speakers", "words", "vocabulary", "sentences")
_SINGULAR = (
    ("clips", "clip"),
    ("segments", "segment"),
    ("that are", "that is"),
    ("speakers who are", "a speaker who is"),
    ("their", "its"),
)
SHOWN_LETTERS = 70  # of an example's text
MEDIANS = {
    "seconds": "{:.1f} s a clip",
    "characters_a_second": "{:.1f} characters a second of speech",
    "tokens_a_character": "{:.2f} tokens a character",
    "snr_db": "signal-to-noise ratio {:.0f} dB",
}


def report_lines(report: CheckReport) -> Iterator[str]:
    """The lines of the report."""
    kind = "quick check" if report.quick else "check"
    yield f"{report.corpus}: {kind} as {find_language(report.language).name}"
    yield ""
    rows = [HEADER, *(_row(name, it) for name, it in report.splits.items())]
    if len(report.splits) > 1:
        rows.append(_row("all", report.total))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells)
    if report.medians:
        shown = [MEDIANS[name].format(value) for name, value in report.medians.items()]
        yield f"medians: {', '.join(shown)}"
    for reason, count in report.unused.items():
        yield f"not used: {count:,} rows {reason}"
    for note in report.notes:
        yield f"note: {note}"
    for finding in report.findings:
        yield ""
        yield from _finding_lines(finding)
    yield ""
    yield f"{_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}"


def sentence_of(finding: CorpusFinding) -> str:
    """`3 clips with digits in their text`, or `1 clip with digits in its text`."""
    says = finding.says
    if finding.count == 1:
        for many, one in _SINGULAR:
            says = re.sub(rf"\b{many}\b", one, says, count=1)
    return f"{finding.count:,} {says}" if finding.count else says


def _finding_lines(finding: CorpusFinding) -> Iterator[str]:
    yield f"{finding.level} {finding.name}: {sentence_of(finding)}"
    yield f"    {finding.advice}{'; --fix leaves them out' if finding.fixed else ''}"
    for each in finding.examples:
        text = each.text if len(each.text) <= SHOWN_LETTERS else f"{each.text[:SHOWN_LETTERS]}..."
        facts = [each.split, *([f"{each.seconds:.1f} s"] if each.seconds is not None else [])]
        detail = f" [{each.detail}]" if each.detail else ""
        yield f"    {each.id} ({', '.join(facts)}){detail} {text}"


def _row(name: str, it: SplitStatistics) -> tuple[str, ...]:
    counts = (it.speakers, it.words, it.vocabulary, it.sentences)
    return (
        *(name, f"{it.clips:,}", f"{it.dropped:,}", f"{it.hours:.2f}"),
        *(f"{count:,}" for count in counts),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
