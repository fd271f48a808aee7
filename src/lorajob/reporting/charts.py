"""The charts of a report, as Vega-Lite. Altair builds them; the page draws them in the browser."""

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence

import altair as alt

from lorajob.reporting.curves import Curves
from lorajob.reporting.findings import Findings, Rate

HEIGHT = 220  # pixels; a chart is as wide as its place on the page
# Okabe and Ito's colours, which people with impaired colour vision tell apart.
COLORS = {"base": "#999999", "tuned": "#0072B2", "delivered": "#009E73"}
KINDS = {"substituted": "#E69F00", "deleted": "#56B4E9", "inserted": "#CC79A7"}

RATE_TITLES = {"wer": "word error rate, %", "cer": "character error rate, %"}
LABEL = 110  # pixels; a longer name ends in an ellipsis, and the tooltip has it whole
CELL = "#3B8FCC"  # has contrast on white and on a dark page
BELOW = alt.Legend(orient="bottom")

VegaLite = Mapping[str, object]  # a specification of a chart


def all_charts(findings: Findings) -> dict[str, VegaLite]:
    """Name -> Vega-Lite specification, of each chart for which the job has data."""
    made: dict[str, Callable[[Findings], alt.TopLevelMixin | None]] = {
        "rates": rates,
        "loss": lambda it: loss(it.curve),
        "validation": lambda it: validation(it.validation),
        "learning_rate": lambda it: learning_rate(it.curve),
        "kinds": kinds,
        "lengths": lengths,
        "speakers": speakers,
        "characters": characters,
    }
    found = {name: make(findings) for name, make in made.items()}
    return {name: chart.to_dict() for name, chart in found.items() if chart is not None}


def training_charts(curves: Curves) -> dict[str, VegaLite]:
    """Name -> Vega-Lite specification, of the charts of a training, finished or running."""
    made = {
        "loss": loss(curves.steps),
        "validation": validation(curves.validation),
        "learning_rate": learning_rate(curves.steps),
    }
    return {name: chart.to_dict() for name, chart in made.items() if chart is not None}


def _data(rows: Sequence[Mapping[str, object]]) -> alt.Data:
    return alt.Data(values=[dict(row) for row in rows])


def _models(shown: Collection[object]) -> alt.Color:
    names = [it for it in COLORS if it in shown]
    scale = alt.Scale(domain=names, range=[COLORS[name] for name in names])
    return alt.Color("model:N", scale=scale, title="model", legend=BELOW)


def rates(findings: Findings) -> alt.LayerChart:
    """Error rates of the models by the language's metric, with their intervals."""
    rows = [(it.name, *_span(findings.rate_of(it))) for it in findings.rates]
    return _bars(rows, COLORS, RATE_TITLES[findings.metric])


def _span(rate: Rate) -> tuple[float, float, float]:
    """The value with its interval; without one, the interval is the value."""
    low = rate.value if rate.low is None else rate.low
    high = rate.value if rate.high is None else rate.high
    return rate.value, low, high


def bars_with_intervals(
    rows: Sequence[tuple[str, float, float, float]], title: str = RATE_TITLES["wer"]
) -> VegaLite:
    """A bar for each (name, error rate, low, high), all in percent."""
    return _bars(rows, {}, title).to_dict()


def _bars(
    rows: Sequence[tuple[str, float, float, float]],
    colors: Mapping[str, str],
    title: str = RATE_TITLES["wer"],
) -> alt.LayerChart:
    fields = ("name", "rate", "low", "high", "color")
    values: list[dict[str, object]] = [
        dict(zip(fields, (*row, colors.get(row[0], COLORS["tuned"])), strict=True)) for row in rows
    ]
    order = [row[0] for row in rows]
    base = alt.Chart(_data(values)).encode(
        y=alt.Y("name:N", sort=order, title=None),
        tooltip=["name:N", *(alt.Tooltip(f"{name}:Q", format=".1f") for name in fields[1:4])],
    )
    bars = base.mark_bar(height=18).encode(
        x=alt.X("rate:Q", title=title), color=alt.Color("color:N", scale=None)
    )
    whiskers = base.mark_rule(strokeWidth=2, color="#D55E00").encode(x="low:Q", x2="high:Q")
    return (bars + whiskers).properties(width="container", height=40 * len(rows))


def loss(curve: Sequence[Mapping[str, float]]) -> alt.Chart | None:
    """Loss over the steps."""
    if not curve:
        return None
    return (
        alt.Chart(_data(curve))
        .mark_line(color=COLORS["tuned"])
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("loss:Q", title="loss, nats a token", scale=alt.Scale(zero=False)),
            tooltip=["step:Q", alt.Tooltip("loss:Q", format=".3f")],
        )
        .properties(width="container", height=HEIGHT)
    )


def validation(points: Sequence[Mapping[str, float]]) -> alt.Chart | None:
    """Error rates of the clips that training held back, over the steps."""
    if not points:
        return None
    rows = [
        {"step": point["step"], "rate": point[name], "metric": name.upper()}
        for point in points
        for name in ("wer", "cer")
    ]
    scale = alt.Scale(domain=["WER", "CER"], range=[COLORS["tuned"], KINDS["inserted"]])
    return (
        alt.Chart(_data(rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("rate:Q", title="error rate, %", scale=alt.Scale(zero=False)),
            color=alt.Color("metric:N", scale=scale, title="metric", legend=BELOW),
            tooltip=["step:Q", "metric:N", alt.Tooltip("rate:Q", format=".1f")],
        )
        .properties(width="container", height=HEIGHT)
    )


def learning_rate(curve: Sequence[Mapping[str, float]]) -> alt.Chart | None:
    """Learning rate over the steps."""
    if not curve:
        return None
    return (
        alt.Chart(_data(curve))
        .mark_line(color=KINDS["substituted"])
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("learning_rate:Q", title="learning rate", axis=alt.Axis(format="~e")),
            tooltip=["step:Q", alt.Tooltip("learning_rate:Q", format=".1e")],
        )
        .properties(width="container", height=HEIGHT)
    )


def kinds(findings: Findings) -> alt.Chart | None:
    """Errors by kind."""
    rows = findings.kinds()
    if not rows:
        return None
    scale = alt.Scale(domain=list(KINDS), range=list(KINDS.values()))
    unit = "words" if findings.metric == "wer" else "characters"
    return (
        alt.Chart(_data(rows))
        .mark_bar(height=18)
        .encode(
            x=alt.X("errors:Q", title=f"errors for 100 {unit}"),
            y=alt.Y("model:N", sort=["base", findings.after], title=None),
            color=alt.Color("kind:N", scale=scale, title="kind", legend=BELOW),
            tooltip=["model:N", "kind:N", alt.Tooltip("errors:Q", format=".1f")],
        )
        .properties(width="container", height=80)
    )


def lengths(findings: Findings) -> alt.Chart | None:
    """The rate by the length of the clips."""
    rows = findings.by_length()
    return _grouped(findings, rows, "length", "length of the clip") if rows else None


def speakers(findings: Findings) -> alt.Chart | None:
    """The rate by speaker."""
    rows = findings.by_speaker()
    return _grouped(findings, rows, "speaker", "speaker") if rows else None


def _grouped(
    findings: Findings, rows: list[dict[str, str | float]], field: str, title: str
) -> alt.Chart:
    values = list(dict.fromkeys(str(row[field]) for row in rows))
    return (
        alt.Chart(_data(rows))
        .mark_bar()
        .encode(
            y=alt.Y(f"{field}:N", sort=values, title=title, axis=alt.Axis(labelLimit=LABEL)),
            yOffset=alt.YOffset("model:N", sort=["base", findings.after]),
            x=alt.X("rate:Q", title=f"{findings.metric.upper()}, %"),
            color=_models({row["model"] for row in rows}),
            tooltip=[f"{field}:N", "model:N", alt.Tooltip("rate:Q", format=".1f"), "clips:Q"],
        )
        .properties(width="container", height=34 * len(values))
    )


def characters(findings: Findings) -> alt.Chart | None:
    """Which characters the resulting model took for which others."""
    rows = [
        {"said": _visible(said), "heard": _visible(heard), "times": times}
        for said, heard, times in findings.confused_characters()
    ]
    if not rows:
        return None
    counts = sorted({times for _, _, times in findings.confused_characters()})
    # A count is a whole number. In a row, the word "space" would cover its neighbours.
    legend = alt.Legend(values=[counts[0], counts[len(counts) // 2], counts[-1]], format="d")
    short = alt.Axis(
        labelAngle=0, labelFontSize=16, labelExpr="datum.label === 'space' ? '\u2423' : datum.label"
    )
    return (
        alt.Chart(_data(rows))
        .mark_rect(color=CELL)
        .encode(
            x=alt.X("heard:N", title="heard", axis=short),
            y=alt.Y("said:N", title="said", axis=alt.Axis(labelFontSize=16)),
            # Opacity, and no scheme of colours: frequent pairs stand out on a dark page too.
            opacity=alt.Opacity(
                "times:Q", title="times", scale=alt.Scale(range=[0.25, 1]), legend=legend
            ),
            tooltip=["said:N", "heard:N", "times:Q"],
        )
        .properties(width=alt.Step(26), height=alt.Step(26))
    )


def _visible(character: str) -> str:
    """A combining mark on a dotted circle, and a space in words."""
    if unicodedata.category(character).startswith("M"):
        return "\u25cc" + character
    return "space" if character == " " else character
