"""Applies the rules to a table of clips, and marks the clips that `--fix` leaves out."""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

from lorajob.checking.glance import WRONG_SHARE
from lorajob.checking.language import other_language
from lorajob.checking.model import CorpusFinding, Example
from lorajob.checking.rules import (
    CLEAR_DB,
    LEAST_CHARACTERS,
    LEAST_DEVIATIONS,
    MIXED_FORMS,
    OTHER_SCRIPT,
    PACE,
    RECORDINGS,
    SHARED,
    SOUND,
    TEXT,
    TOO_FAST,
    TOO_SLOW,
    Rule,
)
from lorajob.checking.statistics import median
from lorajob.checking.table import Table
from lorajob.checking.texts import Trait
from lorajob.languages import Language

EXAMPLES = 3
DEVIATION = 1.4826  # standard deviation / median absolute deviation, of a normal distribution
LEAST_SPREAD = 0.1  # of the logarithm of the pace; less would flag small changes of an even pace
_PACED = "reason IS NULL AND characters >= :characters AND speech > 0 AND NOT traits & :digits"


def findings(
    table: Table, language: Language, quick: bool, problem: str = "", allowed: Collection[str] = ()
) -> list[CorpusFinding]:
    """All findings, errors first. `problem` is why no clip was selected; "" if some were.

    Errors of the names in `allowed` are warnings.
    """
    found = [*_nothing_left(table, problem), *_scripts(table, language)]
    if not any(it.name == "wrong-script" for it in found):
        found += other_language(table, language)
    rules = [*RECORDINGS, *SHARED, *_pace_rules(table), *SOUND, *TEXT, *_forms(table)]
    for rule in rules:
        if rule.quick or not quick:
            found += _ask(table, rule)
    found += _dropped(table)
    found = [
        it.model_copy(update={"level": "warning"}) if it.name in allowed else it for it in found
    ]
    return sorted(found, key=lambda it: it.level != "error")


def _ask(table: Table, rule: Rule) -> Iterator[CorpusFinding]:
    """The finding of a rule, if any clip breaks it."""
    count = table.value(f"SELECT count(*) FROM ({rule.query})", **rule.values)
    if not count:
        return
    if rule.fix:
        table.leave_out(rule.label or rule.name, rule.fix, **rule.values)
    query = f"""SELECT c.id, c.split, c.text, c.seconds, f.detail FROM
        (SELECT n, detail, row_number() OVER () AS place FROM ({rule.query}) LIMIT {EXAMPLES}) f
        JOIN clips c ON c.n = f.n ORDER BY f.place"""
    yield CorpusFinding(
        name=rule.name,
        level=rule.level,
        says=rule.says,
        count=count,
        advice=rule.advice,
        fixed=bool(rule.fix),
        examples=tuple(
            Example(
                id=row["id"],
                split=row["split"],
                text=row["text"],
                seconds=None if row["seconds"] is None else round(row["seconds"], 2),
                detail=row["detail"] or "",
            )
            for row in table.rows(query, **rule.values)
        ),
    )


def _nothing_left(table: Table, problem: str) -> Iterator[CorpusFinding]:
    """An error if a job would have no clip for training or none for testing."""
    query = "SELECT count(*) FROM clips WHERE reason IS NULL AND target = :target"
    uses = {"train": "training", "test": "testing"}
    empty = [use for target, use in uses.items() if not table.value(query, target=target)]
    if empty:
        yield CorpusFinding(
            name="nothing-left",
            level="error",
            says=problem or f"no clip is left for {' and for '.join(empty)}",
            count=0,
            advice="look at the clips that are dropped or not used, and why",
            fixed=False,
            examples=(),
        )


def _scripts(table: Table, language: Language) -> Iterator[CorpusFinding]:
    """Texts in another script: an error if they are most of the corpus."""
    wrong = table.value(f"SELECT count(*) FROM ({OTHER_SCRIPT.query})")
    kept = table.value("SELECT count(*) FROM clips WHERE reason IS NULL")
    if wrong > WRONG_SHARE * kept:
        scripts = " or ".join(language.scripts)
        yield from _ask(
            table,
            replace(
                OTHER_SCRIPT,
                name="wrong-script",
                level="error",
                says=f"clips in another script than {language.name} is written in ({scripts})",
                advice="check whether this is the corpus of another language",
            ),
        )
    else:
        yield from _ask(table, replace(OTHER_SCRIPT, fix=OTHER_SCRIPT.query))


def _pace_rules(table: Table) -> Iterator[Rule]:
    """The rules about characters a second, with limits from the corpus itself."""
    values = {"characters": LEAST_CHARACTERS, "digits": int(Trait.DIGITS)}
    middle = median(table, "characters / speech", _PACED, **values)
    if not middle:
        return
    # The median of a ratio gives that of its logarithm, which SQLite may lack.
    ratio = "max(characters / speech / :middle, :middle * speech / characters)"
    spread = median(table, ratio, _PACED, **values, middle=middle) or 1.0
    deviations = LEAST_DEVIATIONS * max(LEAST_SPREAD, DEVIATION * math.log(spread))
    limits: dict[str, float] = {
        "middle": middle,
        "fast": middle * max(TOO_FAST, math.exp(deviations)),
        "clear": CLEAR_DB,
        "slow": middle * min(TOO_SLOW, math.exp(-deviations)),
    }
    for rule in PACE:
        yield replace(rule, fix=rule.query, values={**values, **limits})


def _forms(table: Table) -> Iterator[Rule]:
    """The rule about Unicode forms, if the corpus mixes NFC with other forms."""
    both = """SELECT count(*) FROM clips WHERE reason IS NULL AND traits & :forms
        AND NOT traits & :other"""
    values = {"forms": int(Trait.HAS_FORMS), "other": int(Trait.NOT_NFC)}
    if table.value(both, **values):
        yield MIXED_FORMS


def _dropped(table: Table) -> Iterator[CorpusFinding]:
    """A finding for each reason for which preprocessing drops clips."""
    query = (
        "SELECT reason FROM clips WHERE reason IS NOT NULL GROUP BY reason ORDER BY count(*) DESC"
    )
    for row in table.rows(query):
        rows = "SELECT n, detail FROM clips WHERE reason = :reason ORDER BY n"
        yield from _ask(
            table,
            Rule(
                "dropped",
                "warning",
                f"clips that a job drops: {row['reason']}",
                "see docs/corpora.md, What is dropped",
                rows,
                rows,
                {"reason": row["reason"]},
                label=row["reason"],
            ),
        )
