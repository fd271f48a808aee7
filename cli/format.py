"""Formats jobs, stages and error rates for people, as words and rich tables."""

from typing import TYPE_CHECKING, TextIO

from lorajob.visible import raw_stream, visible_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from lorajob.job.results import Scores
    from lorajob.worker.records.record import JobRecord, StageRecord

SHOWN_RATES = ("base", "delivered", "tuned")
PIPE_WIDTH = 140  # characters; width of a table if the output is not a terminal
STATE_STYLES = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}


def console(stream: TextIO) -> "Console":
    """A rich console. Output to a pipe has no colours and is PIPE_WIDTH wide."""
    from rich.console import Console
    from rich.segment import Segment

    class Visible(Console):
        """Shows control characters of the content; rich's own stay."""

        def _render_buffer(self, buffer: "Iterable[Segment]") -> str:
            return super()._render_buffer(
                it if it.control else Segment(visible_lines(it.text), it.style) for it in buffer
            )

    width = None if stream.isatty() else PIPE_WIDTH
    return Visible(file=raw_stream(stream), width=width, highlight=False, soft_wrap=False)


def metrics_table(record: "JobRecord") -> "Table | None":
    """The known error rates; None if none is known. CER comes first in scripts without spaces.

    `converted` equals `delivered`, so only older jobs have a row of it.
    """
    from rich.table import Table

    from lorajob.tasks.words import language_of

    scores = record.scores
    names = [name for name in SHOWN_RATES if name in scores]
    if "delivered" not in scores and "converted" in scores:
        names.append("converted")
    if not names:
        return None
    first, second = language_of(record.language).metrics
    measured = any(scores[name].interval(first) for name in names)
    table = Table("", box=None, pad_edge=False)
    between = ["95 %"] if measured else []
    for heading in (f"{first.upper()} %", *between, f"{second.upper()} %", "clips"):
        table.add_column(heading, justify="right")
    shown = {name: scores[name] for name in names} | _with_glossary(record) | _unshared(record)
    for name, it in shown.items():
        between = [_between(it.interval(first))] if measured else []
        rates = f"{it.rate(first):.1f}", *between, f"{it.rate(second):.1f}"
        table.add_row(name, *rates, str(it.clips))
    return table


def _with_glossary(record: "JobRecord") -> "dict[str, Scores]":
    """The scores of lorajob's decoder with the job's glossary, by their name."""
    result = record.stages["evaluate"].result
    if result is None or result.glossary is None:
        return {}
    return {"tuned with glossary": result.glossary.scores}


def _unshared(record: "JobRecord") -> "dict[str, Scores]":
    """The scores on test clips that share no speaker or sentence with training, by their names."""
    from lorajob.job.results import PARTS

    result = record.stages["evaluate"].result
    return {
        f"{model}, {PARTS.get(part, part)}": scores
        for part, models in (result.unshared if result else {}).items()
        for model, scores in models.items()
    }


def rate_notes(record: "JobRecord") -> list[str]:
    """What a reader of the error rates has to know, in sentences."""
    from lorajob.job.results import ERRORS_OF

    trained, result = (record.stages[it].result for it in ("train", "evaluate"))
    notes, warnings = (trained.notes, trained.warnings) if trained is not None else ([], [])
    if result is None or result.delivered is None:
        return [*notes, *warnings]
    lines = [
        "base, delivered: decoded by faster-whisper's defaults; tuned: by `lorajob transcribe`"
    ]
    if gained := result.improvement:
        lines.append(
            f"delivered has {gained.points:.1f} points fewer {ERRORS_OF[gained.metric]} than "
            f"base (95 %: {_between(gained.interval)})"
        )
    return [*lines, *notes, *result.notes, *result.warnings, *warnings, *gate_lines(record)]


def gate_lines(record: "JobRecord") -> list[str]:
    """The verdict of the gate with its reasons, and what was not checked; empty without one."""
    from lorajob.job.results import verdict_of

    found = verdict_of({name: stage.result for name, stage in record.stages.items()})
    if found is None:
        return []
    passed = [guard.name for guard in found.guards if guard.state == "passed"]
    left = [guard for guard in found.guards if guard.state == "not_checked"]
    lines = [f"gate: {found.gate_words}"]
    lines += [f"  {it.name} failed: {it.reason}" for it in found.guards if it.state == "failed"]
    if passed:
        lines.append(f"  passed: {', '.join(passed)}")
    lines += [f"  {it.name}: {it.reason}" for it in found.guards if it.state == "reported"]
    return [*lines, *(f"  {guard.name} not checked: {guard.reason}" for guard in left)]


def _between(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"


def plain_table(*headings: str) -> "Table":
    """A table without lines. Long cells are not wrapped."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def attempts_table(record: "JobRecord") -> "Table | None":
    """One row for each ended attempt: time taken, last step, worker, why it ended.

    None if all ended attempts succeeded: then the table of stages is enough.
    """
    from rich.markup import escape
    from rich.table import Table

    from lorajob.tasks.words import duration

    if not any(attempt.why != "succeeded" for attempt in record.ended):
        return None
    table = Table(box=None, pad_edge=False)
    for heading in ("ATTEMPT", "TIME", "STEP", "WORKER", "ENDED"):
        table.add_column(heading, no_wrap=heading != "ENDED")
    for attempt in record.ended:
        table.add_row(
            f"{attempt.stage} {attempt.number}",
            duration(attempt.ended_at - attempt.started_at),
            "" if attempt.step is None else str(attempt.step),
            attempt.worker,
            escape(attempt.why),
        )
    return table


def coloured(state: str) -> str:
    """The state with its colour, as rich markup."""
    style = STATE_STYLES.get(state)
    return f"[{style}]{state}[/]" if style else state


def time_taken(stage: "StageRecord", now: float) -> str:
    """`4 min 8 s` that a stage has taken until its end or `now`; empty before it begins."""
    if not stage.started_at:
        return ""
    from lorajob.tasks.words import duration

    return duration((stage.finished_at or now) - stage.started_at)
