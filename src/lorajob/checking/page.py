"""The report of a check as one HTML file, with the sound of examples."""

from datetime import UTC, datetime
from pathlib import Path

import altair as alt

from lorajob.checking.model import Bins, CheckReport
from lorajob.checking.run import Plan
from lorajob.checking.words import sentence_of
from lorajob.corpora.pieces import pieces
from lorajob.languages import find_language
from lorajob.reporting.html import fill, write_page
from lorajob.reporting.sound import as_data_url
from lorajob.speech.audio import AudioError

CHART_HEIGHT = 180  # pixels
BAR_COLOR = "#0072B2"
SOUND_BYTES = 4_500_000  # of all sounds together, so that the page stays under 6 MB
LONGEST_SOUND = 30.0  # seconds
CAPTIONS = {
    "seconds": "Length of the clips",
    "words": "Words in a clip",
    "characters_a_second": "Characters a second of speech",
    "snr_db": "Signal-to-noise ratio",
}


def write_check_page(report: CheckReport, plan: Plan, path: Path) -> None:
    """Write the report of a check to `path`. The clips of its examples are read again."""
    page = fill(
        "check.html",
        {name: _bars(bins) for name, bins in report.histograms.items()},
        report=report,
        language=find_language(report.language),
        captions=CAPTIONS,
        headlines=[sentence_of(finding) for finding in report.findings],
        sounds=_sounds(report, plan),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_page(path, page)


def _sounds(report: CheckReport, plan: Plan) -> dict[str, str]:
    """Id -> sound of the examples that can be decoded, until they take SOUND_BYTES."""
    ids = {example.id for finding in report.findings for example in finding.examples}
    if not ids:
        return {}
    sounds: dict[str, str] = {}
    size = 0
    clips = plan.corpus.clips(plan.corpus.splits.keys(), only=ids)
    for piece in pieces(clips, LONGEST_SOUND):
        try:
            sound = as_data_url(piece.samples(LONGEST_SOUND))
        except AudioError:
            continue
        size += len(sound)
        if size > SOUND_BYTES:
            break
        sounds[piece.clip.id] = sound
    return sounds


def _bars(bins: Bins) -> dict[str, object]:
    """A histogram as a Vega-Lite specification."""
    rows = [
        {
            "from": round(bins.start + number * bins.width, 2),
            "to": round(bins.start + (number + 1) * bins.width, 2),
            "clips": count,
        }
        for number, count in enumerate(bins.counts)
    ]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar(color=BAR_COLOR)
        .encode(
            x=alt.X("from:Q", bin=alt.BinParams(binned=True, step=bins.width), title=bins.unit),
            x2="to:Q",
            y=alt.Y("clips:Q", title="clips"),
            tooltip=["from:Q", "to:Q", "clips:Q"],
        )
        .properties(width="container", height=CHART_HEIGHT)
    )
    specification: dict[str, object] = chart.to_dict()
    return specification
