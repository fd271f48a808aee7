"""Jobs are compared on the clips that all of them have, and on no other."""

import json
from pathlib import Path

import jiwer
import pytest

from lorajob.errors import UsageError
from lorajob.job.jobdir import JobDir
from lorajob.reporting.comparison import compare_jobs, write_comparison
from lorajob.reporting.findings import Findings, read_findings
from lorajob.speech.text import normalise
from tests.support.command import environment, run
from tests.support.evaluated import make_evaluated_job
from tests.support.tiny import SENTENCES

WORSE = ("नमस्ते", "hello world", "पानी गरम था", "यह किताब मेरी है")
BETTER = ("नमस्ते दुनिया", "हमने", "पानी ठंडा है", "यह किताब मेरी है")


def job(folder: Path, name: str, tuned: tuple[str, ...], *sets: str, **given: object) -> Findings:
    said = given.pop("said", SENTENCES)
    heard = {"base": tuple("" for _ in tuned), "tuned": tuned}
    return read_findings(make_evaluated_job(folder / name, heard, *sets, said=said, **given))


def test_only_common_clips_count_and_the_others_are_named(tmp_path: Path) -> None:
    """The second job has another reference for the third clip, and a fifth clip."""
    said = (*SENTENCES[:2], "पानी नहीं है", SENTENCES[3], "नमस्ते")
    first = job(tmp_path, "hi-1", WORSE)
    second = job(tmp_path, "hi-2", (*BETTER, "x"), "train.epochs=9", said=said)
    found = compare_jobs([first, second])
    assert [clip.id for clip in found.clips] == ["test-0.wav", "test-1.wav", "test-3.wav"]
    assert found.left_out == {"hi-1": 1, "hi-2": 2}
    lacking = "another job lacks them, or has another reference text"
    assert found.left_out_reasons == [("hi-1", lacking, 1), ("hi-2", lacking, 2)]
    common = [normalise(SENTENCES[n], "") for n in (0, 1, 3)]
    for row, texts in zip(found.rows, (WORSE, BETTER), strict=True):
        heard = [normalise(texts[n], "") for n in (0, 1, 3)]
        assert row.scores.wer == pytest.approx(100 * jiwer.wer(common, heard))
    assert found.rows[0].change is None
    change = found.rows[1].change
    assert change is not None and change.clips == 3
    assert change.fewer == pytest.approx(100 * (1 - 1 / 3))  # one word wrong against three
    assert dict(found.settings) == {"train.epochs": [3, 9]}


def test_clips_that_a_model_skipped_or_that_occur_twice_are_counted(tmp_path: Path) -> None:
    """`delivered` of the second job lacks the first clip and has the fourth twice."""
    first = job(tmp_path, "hi-1", WORSE)
    job(tmp_path, "hi-2", BETTER)
    path = tmp_path / "hi-2" / "evaluate" / "utterances.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows += [rows[3]]
    for row in rows[1:]:
        row["delivered"] = row["tuned"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    second = read_findings(JobDir(tmp_path / "hi-2"))
    found = compare_jobs([first, second])
    assert [clip.id for clip in found.clips] == ["test-1.wav", "test-2.wav"]
    assert found.left_out == {"hi-1": 2, "hi-2": 3}
    assert found.left_out_reasons == [
        ("hi-1", "another job lacks them, or has another reference text", 2),
        ("hi-2", "its delivered model did not transcribe them", 1),
        ("hi-2", "they occur twice", 2),
    ]


def test_one_common_clip_has_no_interval(tmp_path: Path) -> None:
    first = job(tmp_path, "hi-1", WORSE[:1], said=SENTENCES[:1])
    second = job(tmp_path, "hi-2", BETTER)
    found = compare_jobs([first, second])
    assert len(found.clips) == 1
    for row in found.as_json()["jobs"]:  # type: ignore[attr-defined]
        assert row["interval"] is row["cer_interval"] is None
    change = found.as_json()["jobs"][1]["change"]  # type: ignore[index]
    assert change == {"fewer_errors": 100, "interval": None, "certain": False}
    path = tmp_path / "compare.html"
    write_comparison(found, path)
    page = path.read_text("utf-8")
    assert '<span class="soft">(' not in page[: page.index("</main>")]
    shown = run("compare", "hi-1", "hi-2", env=environment(home=tmp_path, artifacts=tmp_path))
    assert shown.returncode == 0 and "0.0 to" not in shown.stdout
    assert "100 % fewer word errors (1 clip)." in shown.stdout


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    first = job(tmp_path, "hi-1", WORSE)
    other = job(tmp_path, "mr-1", WORSE, language="mr")
    with pytest.raises(UsageError, match="different languages: hi, mr"):
        compare_jobs([first, other])
    strange = job(tmp_path, "hi-2", ("x",), said=("यह",))
    with pytest.raises(UsageError, match="no test clip in common"):
        compare_jobs([first, strange])


def test_the_page_of_a_comparison_shows_the_clips_that_differ(tmp_path: Path) -> None:
    found = compare_jobs([job(tmp_path, "hi-1", WORSE), job(tmp_path, "hi-2", BETTER)])
    path = tmp_path / "compare.html"
    write_comparison(found, path)
    page = path.read_text("utf-8")
    ours = page[: page.index("</main>")]
    assert "test-0.wav" in ours and "test-3.wav" not in ours  # both are right on the last one
    for row in found.rows:
        assert f"{row.scores.wer:.1f} %" in ours
    assert "All settings are the same" in ours


def test_a_comparison_shows_no_secret_of_a_url(tmp_path: Path) -> None:
    more = json.dumps([{"corpus": "https://h/b.tar?key=SECRET"}])
    jobs = [job(tmp_path, "hi-1", WORSE), job(tmp_path, "hi-2", BETTER, f"more_corpora={more}")]
    found = str(compare_jobs(jobs).settings)
    assert "https://h/b.tar?***" in found and "SECRET" not in found


def test_where_a_sentence_is_one_word_characters_come_first(tmp_path: Path) -> None:
    """In rates, in the order of the clips, on the page and in the command."""
    jobs = tmp_path / "jobs"
    said = ("今日は良い天気です", "水は冷たい", "本を読む")
    first = ("今日は悪い天気です", "水", "本を読む")
    second = ("今日は良い天気だ", "水は冷たい", "本を読む")
    made = [
        job(jobs, name, heard, said=said, language="ja")
        for name, heard in (("ja-1", first), ("ja-2", second))
    ]
    found = compare_jobs(made)
    assert found.metric == "cer" and found.as_json()["metric"] == "cer"
    # The first clip differs by one character, the second by four and is right in one job.
    assert [clip.id for clip in found.widest(9)] == ["test-1.wav", "test-0.wav"]
    assert [clip.id for clip in found.widest(1)] == ["test-1.wav"]
    path = tmp_path / "compare.html"
    write_comparison(found, path)
    page = path.read_text("utf-8")
    assert page.index("character error rate</th>") < page.index("word error rate</th>")
    row = found.rows[0]
    low, high = row.cer_interval
    told = run("compare", "ja-1", "ja-2", env=environment(home=tmp_path)).stdout
    assert "CER %  INTERVAL" in told and told.index("CER %") < told.index("WER %")
    assert f"{row.scores.cer:.1f}   {low:.1f} to {high:.1f}" in told


def test_the_command_compares_jobs_and_explains_mistakes(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    for name, texts in (("hi-1", WORSE), ("hi-2", BETTER)):
        job(jobs, name, texts)
    env = environment(home=tmp_path)
    told = run("compare", "hi-1", "hi-2", env=env)
    assert told.returncode == 0, told.stderr
    assert "hi-2 against hi-1: 80 % fewer word errors (4 clips;" in told.stdout
    assert "compared on 4 common clips" in told.stdout
    said = json.loads(run("compare", "hi-1", "hi-2", "--json", env=env).stdout)
    assert [it["job"] for it in said["jobs"]] == ["hi-1", "hi-2"]
    assert said["jobs"][0]["change"] is None
    for wrong in (("hi-1",), ("hi-1", "hi-1")):
        failed = run("compare", *wrong, env=env)
        assert (failed.returncode, failed.stderr) == (
            2,
            "lorajob: JOB: give two or more different jobs\n",
        )
