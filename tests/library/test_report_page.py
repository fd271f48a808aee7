"""The page about a job: its numbers are those of the files, and it is safe to open."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import jiwer
import pytest

from lorajob.errors import StageError
from lorajob.job.jobdir import JobDir
from lorajob.reporting.advice import advice
from lorajob.reporting.compare import compare_counts, verdict
from lorajob.reporting.findings import Rate, read_findings
from lorajob.reporting.page import choose_clips, render, write_report
from lorajob.reporting.words import (
    Counts,
    Edit,
    align,
    confused_characters,
    count_characters,
    count_words,
)
from lorajob.speech.text import normalise
from lorajob.stage import draw_report
from tests.support import browser
from tests.support.evaluated import make_evaluated_job
from tests.support.tiny import SENTENCES

HOSTILE = "</script><img src=x onerror=alert(1)> \x1b]0;title\x07"
TUNED = ("नमस्ते दुनिया", "हमने", "पानी ठंडा था", f"यह {HOSTILE} किताब मेरी है")
BASE = ("नमस्ते", "hello world", "पानी गरम था", "यह किताब मेरी है")


@pytest.fixture
def job(tmp_path: Path) -> JobDir:
    """A job that has finished its evaluation. Its transcripts are those above."""
    return make_evaluated_job(
        tmp_path / "hi-1a2b3c4d",
        {"base": BASE, "tuned": TUNED},
        "train.epochs=7",
        corpus=f"{HOSTILE}.tar.gz",
    )


def test_words_are_aligned_and_counted_as_jiwer_counts_them() -> None:
    assert align("a b c d", "a x c d e", "en") == [
        Edit("same", "a", "a"),
        Edit("substituted", "b", "x"),
        Edit("same", "c", "c"),
        Edit("same", "d", "d"),
        Edit("inserted", "", "e"),
    ]
    assert align("a b", "b", "en")[0] == Edit("deleted", "a", "")
    assert align("...", "so what", "en") == [
        Edit("inserted", "", "so"),
        Edit("inserted", "", "what"),
    ]
    for said, heard in zip(SENTENCES, BASE, strict=True):
        expected = jiwer.process_words(normalise(said, ""), normalise(heard, ""))
        counts = count_words(align(said, heard, "hi"))
        assert (counts.substituted, counts.deleted, counts.inserted) == (
            expected.substitutions,
            expected.deletions,
            expected.insertions,
        )
        assert counts.length == len(normalise(said, "").split())
    assert confused_characters("कल", "खल", "hi") == {("क", "ख"): 1}


def counts(errors: int) -> Counts:
    return Counts(errors, 0, 0, 10)


def test_a_change_is_stated_with_its_interval_and_doubt() -> None:
    before, after = [counts(4)] * 40, [counts(2)] * 40
    change = compare_counts(before, after, ["a"] * 40, 0)
    assert change is not None
    assert (change.fewer, change.low, change.high, change.clips) == (50, 50, 50, 40)
    assert verdict(change, "word") == (
        "50 % fewer word errors (40 clips; 95 % interval 50 to 50 %)."
    )
    mixed = compare_counts([counts(4)] * 4, [counts(n) for n in (0, 8, 2, 5)], ["a"] * 4, 0)
    assert mixed is not None and not mixed.certain
    assert "may be chance" in verdict(mixed, "word") and "are few" in verdict(mixed, "word")
    worse = compare_counts(after, before, ["a"] * 40, 0)
    assert worse is not None
    assert verdict(worse, "character").startswith("100 % more character errors")
    assert compare_counts([counts(0)], [counts(1)], ["a"], 0) is None
    one = compare_counts([counts(4)], [counts(2)], ["a"], 0)
    assert one is not None and not one.certain
    assert one.interval is None
    assert verdict(one, "word").startswith(
        "50 % fewer word errors (1 clip). The difference may be chance. 1 clip is few"
    )


def test_the_clips_of_one_speaker_are_drawn_together() -> None:
    """Two speakers' clips all improve, one's all worsen: by clip that looks far too certain."""
    before = [counts(4)] * 60
    after = [counts(1)] * 40 + [counts(6)] * 20
    by_clip = compare_counts(before, after, [""] * 60, 0)
    by_speaker = compare_counts(before, after, ["a"] * 20 + ["b"] * 20 + ["c"] * 20, 0)
    assert by_clip is not None and by_speaker is not None
    assert by_clip.certain and not by_speaker.certain
    assert by_clip.fewer == by_speaker.fewer


def test_the_numbers_of_the_page_are_those_of_the_files(job: JobDir) -> None:
    page = render(job, read_findings(job))
    metrics = json.loads((job.stage_dir("evaluate") / "metrics.json").read_text("utf-8"))
    rates = [
        f"{metrics[model][rate]:.1f} %" for model in ("base", "tuned") for rate in ("wer", "cer")
    ]
    for shown in (*rates, "(50.5 to 70.5)", "1:02:05", "0:01:01"):
        assert shown in page
    assert "train.epochs" in page and "a warning of the stage" in page
    findings = read_findings(job)
    kinds = {(row["model"], row["kind"]): row["errors"] for row in findings.kinds()}
    said = [normalise(text, "") for text in SENTENCES]
    for model, texts in (("base", BASE), ("tuned", TUNED)):
        expected = jiwer.process_words(said, [normalise(text, "") for text in texts])
        words = sum(len(text.split()) for text in said)
        assert kinds[model, "inserted"] == pytest.approx(100 * expected.insertions / words)
        assert kinds[model, "deleted"] == pytest.approx(100 * expected.deletions / words)
    assert len(findings.curve) <= 400 and findings.curve[-1]["step"] == 1000
    assert findings.curve[0]["loss"] == pytest.approx(5 - 2 / 500)  # the mean of steps 1, 2 and 3
    assert findings.validation[0] == {"step": 250, "wer": 75, "cer": 35}
    assert [point["step"] for point in findings.validation] == [250, 500, 750, 1000]
    assert {clip.speaker for clip in findings.clips} == {"speaker-0", "speaker-1", "speaker-2"}


def region(page: str, label: str) -> list[list[str]]:
    """The rows of a table of the page, without its heading."""
    table = page[page.index(f'aria-label="{label}"') :].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2], re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in rows
    ]


def drawn_values(page: str, name: str) -> list[dict[str, object]]:
    """The rows of data in the specification of a chart."""
    spec = json.loads(re.search(rf'id="data-{name}">(.*?)</script>', page, re.DOTALL)[1])
    while "data" not in spec:
        (spec, *_) = spec["layer"]
    return spec["data"]["values"]


def test_every_number_of_the_page_is_computed_again_by_other_means(tmp_path: Path) -> None:
    """By jiwer, and by all 27 draws of three speakers instead of a bootstrap's random ones."""
    after = ("नमस्ते दुनिया", "हमने खाना", "पानी गरम था", "यह किताब मेरी है")
    texts = {"base": BASE, "tuned": TUNED, "delivered": after}
    page = render(job := make_evaluated_job(tmp_path / "hi-1", texts), read_findings(job))
    metrics = json.loads((job.stage_dir("evaluate") / "metrics.json").read_bytes())
    said = [normalise(text, "") for text in SENTENCES]
    heard = {name: [normalise(text, "") for text in its] for name, its in texts.items()}
    words = {name: jiwer.process_words(said, its) for name, its in heard.items()}
    rows = {row[0]: row[1:] for row in region(page, "Error rates")}
    assert rows.keys() == texts.keys()
    for name, its in heard.items():
        wer, cer = 100 * words[name].wer, 100 * jiwer.cer(said, its)
        assert (metrics[name]["wer"], metrics[name]["cer"]) == pytest.approx((wer, cer))
        assert rows[name][0].startswith(f"{wer:.1f} %") and rows[name][1] == f"{cer:.1f} %"
        assert rows[name][2] == "4"
        assert re.search(rf'<dt>{name}</dt><dd><span class="big">{wer:.1f} %</span>', page)
        (bar,) = [it for it in drawn_values(page, "rates") if it["name"] == name]
        assert bar["rate"] == pytest.approx(wer)

    def errors(name: str, places: Sequence[int]) -> int:
        found = [jiwer.process_words(said[it], heard[name][it]) for it in places]
        return sum(it.substitutions + it.deletions + it.insertions for it in found)

    speakers = [[0, 3], [1], [2]]
    counts = [(errors("base", it), errors("delivered", it)) for it in speakers]
    draws = [[sum(it) for it in zip(*draw, strict=True)] for draw in product(counts, repeat=3)]
    changes = [100 * (1 - now / before) for before, now in draws if before]
    whole = 100 * (1 - errors("delivered", range(4)) / errors("base", range(4)))
    change = f"{whole:.0f} % fewer word errors (4 clips; 95 % interval {min(changes):.0f} to"
    assert f"{change} {max(changes):.0f} %)" in page
    for row in drawn_values(page, "kinds"):
        kinds = {"substituted": "substitutions", "deleted": "deletions", "inserted": "insertions"}
        count = getattr(words[row["model"]], kinds[row["kind"]])
        assert row["errors"] == pytest.approx(100 * count / sum(len(it.split()) for it in said))
    assert len(drawn_values(page, "kinds")) == 6
    for row in drawn_values(page, "speakers"):
        places = speakers[int(row["speaker"][-1])]
        length = sum(len(said[it].split()) for it in places)
        assert row["rate"] == pytest.approx(100 * errors(row["model"], places) / length)
        assert row["clips"] == len(places)
    assert {row["model"]: row["rate"] for row in drawn_values(page, "lengths")} == pytest.approx(
        {name: 100 * words[name].wer for name in ("base", "delivered")}
    )
    wrong = sum(int(row[2]) for row in region(page, "Confused words"))
    assert wrong == errors("delivered", range(4))
    pairs = [jiwer.process_characters(*it) for it in zip(said, heard["delivered"], strict=True)]
    drawn = drawn_values(page, "characters")
    assert sum(row["times"] for row in drawn) == sum(it.substitutions for it in pairs) > 0
    cost = {row[0]: row[1:3] for row in region(page, "Cost")}
    assert cost["train"] == ["1:02:05", "0:01:01"]  # 3725 and 61 s
    for place, article in enumerate(re.findall(r"<article>.*?</article>", page, re.DOTALL)):
        number = int(re.search(r"test-(\d)\.wav", article)[1])
        for name, shown in re.findall(r"<dt>(\w+), (\d+) errors?</dt>", article):
            assert int(shown) == errors(name, [number]), (place, name)


def test_a_report_shows_no_secret_of_a_url(tmp_path: Path) -> None:
    more = [{"corpus": "https://h/b.tar?key=SECRET"}]
    places = {"evaluate.text": "a.txt", "evaluate.glossary": "g.txt", "test_corpus": "t.tar"}
    sets = [f"{name}=https://h/{it}?key=SECRET" for name, it in places.items()]
    sets.append(f"more_corpora={json.dumps(more)}")
    job = make_evaluated_job(tmp_path / "hi-1", {"base": BASE, "tuned": TUNED}, *sets)
    page = render(job, read_findings(job))
    assert "https://h/a.txt?***" in page and "https://h/b.tar?***" in page
    assert "SECRET" not in page


def test_speakers_whose_names_begin_alike_are_told_apart(job: JobDir) -> None:
    findings = read_findings(job)
    names = [f"speaker-of-the-corpus-{number % 2}" for number in range(4)]
    clips = [replace(clip, speaker=it) for clip, it in zip(findings.clips, names, strict=True)]
    rows = replace(findings, clips=clips).by_speaker()
    assert [row["speaker"] for row in rows] == [names[0], names[0], names[1], names[1]]
    assert {row["clips"] for row in rows} == {2}


def test_rates_on_new_speakers_have_both_intervals(tmp_path: Path) -> None:
    job = make_evaluated_job(tmp_path / "hi-1", {"base": BASE, "tuned": TUNED})
    path = job.stage_dir("evaluate") / "metrics.json"
    scores = {"wer": 10.0, "cer": 5.0, "clips": 3, "wer_interval": [5, 15], "cer_interval": [2, 8]}
    unshared = {"unshared": {"speakers": {"tuned": scores}}}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | unshared), "utf-8")
    (row,) = read_findings(job).unshared
    assert row.name == "tuned, new speakers"
    assert (row.wer, row.cer) == (Rate(10.0, 5.0, 15.0), Rate(5.0, 2.0, 8.0))


def test_few_compared_clips_are_not_called_a_small_test_set(tmp_path: Path) -> None:
    said = SENTENCES * 10
    made = make_evaluated_job(tmp_path / "hi-1", {"base": said, "tuned": said}, said=said)
    path = made.stage_dir("evaluate") / "utterances.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows[:14]:
        row["delivered"] = row["tuned"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (first, *_) = advice(read_findings(made))
    assert first.startswith("delivered is measured on 14 of 40 test clips.")
    for row in rows[:14]:
        del row["delivered"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:14]), "utf-8")
    (first, *_) = advice(read_findings(made))
    assert first.startswith("The test set has 14 clips.")


def test_each_clip_is_shown_once_and_has_its_sound(job: JobDir) -> None:
    findings = read_findings(job)
    groups = {group.title: [it.id for it in group.clips] for group in choose_clips(findings, True)}
    assert sorted(name for names in groups.values() for name in names) == [
        f"test-{n}.wav" for n in range(4)
    ]
    assert groups["Worst clips"][0] == "test-3.wav"
    page = render(job, findings, full=True)
    assert page.count("<audio") == 4 and page.count("data:audio/mpeg;base64,") == 4


def test_text_of_a_corpus_cannot_leave_its_place(job: JobDir, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report(job, path)
    page = path.read_text("utf-8")
    assert "<img src=x" not in page and "&lt;/script&gt;&lt;img src=x" in page
    ours = page[: page.index("</main>")]  # Vega's code follows
    outside = re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", ours)
    assert not outside
    assert "default-src 'none'" in page
    assert list(tmp_path.glob(".*")) == []


def test_a_job_without_evaluation_or_with_a_damaged_file_is_one_line(job: JobDir) -> None:
    path = job.stage_dir("evaluate") / "utterances.jsonl"
    path.write_text('{"id": "a"')
    with pytest.raises(StageError, match=r"utterances\.jsonl is damaged"):
        read_findings(job)
    (job.stage_dir("evaluate") / "manifest.json").unlink()
    with pytest.raises(StageError, match="stage evaluate has not finished"):
        read_findings(job)


def test_a_damaged_history_is_one_line(job: JobDir) -> None:
    (job.stage_dir("train") / "history.jsonl").write_text('{"step": 1')
    with pytest.raises(StageError, match=r"history\.jsonl is damaged"):
        read_findings(job)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluate/utterances.jsonl", '{"id": "a", "seconds": 1}'),
        ("evaluate/utterances.jsonl", "[]"),
        ("evaluate/metrics.json", '{"tuned": {"wer": 1.0}}'),
        ("evaluate/metrics.json", "[]"),
        ("preprocess/report.json", "{"),
        ("preprocess/report.json", "[]"),
        ("train/history.jsonl", '{"loss": 1.0}'),
        ("train/history.jsonl", "7"),
    ],
)
def test_a_file_of_another_form_is_one_line(job: JobDir, name: str, text: str) -> None:
    (job.root / name).write_text(text)
    with pytest.raises(StageError, match=re.escape(Path(name).name) + ".* is damaged"):
        read_findings(job)


def test_words_are_those_of_the_language() -> None:
    """Ukrainian's apostrophe is a letter; in English it is left out."""
    assert [edit.kind for edit in align("м'ята", "мята", "uk")] == ["substituted"]
    assert [edit.kind for edit in align("don't", "dont", "en")] == ["same"]
    assert confused_characters("ısı", "isi", "tr") == {("ı", "i"): 2}
    assert count_characters("İ", "i", "tr").errors == 0


def test_the_report_of_a_finished_job_is_drawn_and_a_failure_only_logged(
    job: JobDir, caplog: pytest.LogCaptureFixture
) -> None:
    draw_report(job)
    assert job.report_path.read_text("utf-8").startswith("<!doctype html>")
    job.report_path.unlink()
    (job.stage_dir("evaluate") / "utterances.jsonl").write_text('{"id": "a"')
    draw_report(job)
    assert not job.report_path.exists()
    (record,) = [it for it in caplog.records if it.name == "lorajob.stage"]
    assert "report.html was not drawn" in record.getMessage() and record.exc_info


@pytest.mark.slow
def test_a_browser_draws_the_charts(job: JobDir, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report(job, path)
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    path.write_text(f"{path.read_text('utf-8')}<script>document.title = {wide}</script>", "utf-8")
    document = browser.quiet_page(path.as_uri(), 500, dark=True)
    assert "<title>0</title>" in document  # nothing is wider than the window
    assert "#30363d" in document[document.index("<main") :]  # grid lines of the dark page
    drawn = re.findall(r'id="chart-(\w+)"[^>]*>(?:<div[^>]*>)?\s*<svg', document)
    charts = [
        "rates",
        "loss",
        "validation",
        "learning_rate",
        "kinds",
        "lengths",
        "characters",
        "speakers",
    ]
    assert drawn == charts
    ours = document[: document.index("</main>")]
    assert "onerror=alert(1)&gt;" in ours and "<img" not in ours
