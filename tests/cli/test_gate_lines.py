"""The verdict of the gate, as people and scripts read it."""

import json
from pathlib import Path

from lorajob.bundle.card import CardOptions, write_card
from lorajob.bundle.facts import read_facts
from lorajob.bundle.layout import Layout
from lorajob.bundle.make import Order, notes
from lorajob.cli.format import gate_lines, metrics_table, rate_notes
from lorajob.job.results import Guard, StageResult, gate_fields, headline
from lorajob.reporting.findings import read_findings
from lorajob.reporting.page import render
from lorajob.tasks.describe import describe
from lorajob.tasks.notify import sentence
from lorajob.tasks.words import gain
from lorajob.worker.records.record import JobRecord
from tests.support.command import finished, job_record
from tests.support.evaluated import make_evaluated_job
from tests.support.tiny import SENTENCES

WER = Guard(name="wer", state="passed", reason="WER 50 %", value=50.0)
NOISE = Guard(name="noise", state="failed", reason="30 words in silence <b>", value=30.0)
LONG = Guard(name="long_form", state="not_checked", reason="12 s of test clips")
SPEED = Guard(name="speed", state="reported", reason="60 s in 9 s")


def with_guards(folder: Path, *guards: Guard) -> JobRecord:
    """A job that has succeeded; `convert` has the verdict of these guards."""
    stages = finished("preprocess", "train", "evaluate", "convert")
    convert = stages["convert"]
    result = convert.result or StageResult()
    fields = result.as_json() | gate_fields(guards)
    changed = {"result": StageResult.model_validate(fields)}
    stages["convert"] = convert.model_copy(update=changed)
    return job_record(folder, state="succeeded", stages=stages)


def test_a_failed_gate_is_told_with_its_reasons_and_what_was_not_checked(tmp_path: Path) -> None:
    record = with_guards(tmp_path, WER, NOISE, LONG, SPEED)
    assert record.state == "succeeded"
    assert gate_lines(record) == [
        "gate: failed",
        "  noise failed: 30 words in silence <b>",
        "  passed: wer",
        "  speed: 60 s in 9 s",
        "  long_form not checked: 12 s of test clips",
    ]
    said = json.loads(json.dumps(describe(record)))
    assert (said["state"], said["gate"]) == ("succeeded", "failed")
    assert said["gate_reasons"] == ["30 words in silence <b>"]
    assert [guard["state"] for guard in said["guards"]] == [
        "passed",
        "failed",
        "not_checked",
        "reported",
    ]


def test_a_gate_that_passed_and_one_that_checked_nothing(tmp_path: Path) -> None:
    assert gate_lines(with_guards(tmp_path / "a", WER))[0] == "gate: passed"
    assert gate_lines(with_guards(tmp_path / "b", LONG))[0] == "gate: not checked"


def test_a_gate_that_passed_says_how_much_it_did_not_check(tmp_path: Path) -> None:
    assert gate_lines(with_guards(tmp_path / "a", WER, LONG, SPEED)) == [
        "gate: passed, 1 not checked",
        "  passed: wer",
        "  speed: 60 s in 9 s",
        "  long_form not checked: 12 s of test clips",
    ]
    job = make_evaluated_job(tmp_path / "hi-1", {"base": SENTENCES, "tuned": SENTENCES})
    out = job.new_attempt("convert", 1)
    job.commit("convert", out, StageResult.model_validate(gate_fields([WER, LONG])))
    assert "<strong>passed, 1 not checked</strong>" in render(job, read_findings(job))
    facts = read_facts(job)
    told = notes(facts, Order(("adapter",), "mit", None))
    assert told[0] == "the gate passed, 1 not checked: long_form"
    card = write_card(facts, Layout(None, None, (), None), CardOptions("a", "mit", None, False))
    assert "Passed, 1 not checked: long_form." in card


def test_without_spaces_the_error_rate_of_characters_comes_first(tmp_path: Path) -> None:
    stages = finished("preprocess", "train", "evaluate", "convert")
    for language, first, second in (("hi", "wer", "cer"), ("zh", "cer", "wer")):
        record = job_record(tmp_path, state="succeeded", stages=stages, language=language)
        table = metrics_table(record)
        assert table is not None
        headings = [str(it.header) for it in table.columns]
        assert headings.index(f"{first.upper()} %") < headings.index(f"{second.upper()} %")
        base, after = record.scores["base"], record.scores[headline(record.scores) or ""]
        cells = {str(it.header): [*it.cells] for it in table.columns}
        assert cells[f"{first.upper()} %"][0] == f"{base.rate(first):.1f}"
        shown = f"{base.rate(first):.1f} -> {after.rate(first):.1f}"
        assert gain(record) == (shown if language == "hi" else f"CER {shown}")
        assert f": {first.upper()} {base.rate(first):.1f} %" in sentence(record, "succeeded")


def test_an_older_job_has_no_verdict(tmp_path: Path) -> None:
    record = with_guards(tmp_path)
    assert gate_lines(record) == []
    assert not any("gate" in line for line in rate_notes(record))
    said = describe(record)
    assert (said["gate"], said["gate_reasons"], said["guards"]) == (None, [], [])


def test_the_report_shows_every_guard(tmp_path: Path) -> None:
    job = make_evaluated_job(tmp_path / "hi-1", {"base": SENTENCES, "tuned": SENTENCES})
    assert '<section id="gate">' not in render(job, read_findings(job))
    out = job.new_attempt("convert", 1)
    result = StageResult.model_validate(gate_fields([WER, NOISE, LONG]))
    job.commit("convert", out, result)
    page = render(job, read_findings(job))
    section = page[page.index('<section id="gate">') :]
    section = section[: section.index("</section>")]
    assert "failed" in section and "30 words in silence &lt;b&gt;" in section
    assert "not checked" in section and "long form" in section
