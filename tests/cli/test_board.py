"""The board lists each language with its best delivered model."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rich.console import Console

from lorajob.cli.board import board_table
from lorajob.job.results import StageResult
from lorajob.reporting.board import BoardRow, markdown, write_board
from lorajob.server.web.pages_jobs import lines_of
from lorajob.tasks.board import read_board
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import connect
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support import browser
from tests.support.command import environment, run, succeeded_record, url_of


def scored(
    jobs: Path, job_id: str, wer: float, cer: float, language: str = "hi", **result: object
) -> JobRecord:
    """A job that has succeeded. Its base model has 80 % word and 40 % character errors."""
    record = succeeded_record(jobs, job_id)
    rates = {"raw_wer": 0, "raw_cer": 0, "clips": 50}
    base = rates | {"wer": 80, "cer": 40}
    after = rates | {"wer": wer, "cer": cer, "wer_interval": (wer - 1, wer + 1)}
    evaluated = StageResult.model_validate({"base": base, "delivered": after, **result})
    stages = dict(record.stages)
    stages["evaluate"] = stages["evaluate"].model_copy(update={"result": evaluated})
    stages["convert"] = stages["convert"].model_copy(update={"result": StageResult()})
    return record.model_copy(update={"language": language, "stages": stages})


@pytest.fixture
def jobs(redis_server: Settings, redis: Redis, tmp_path: Path) -> Iterator[Jobs]:
    """Three Hindi jobs, of which the second is the best, and two Japanese ones."""
    failed = {"gate": "failed", "guards": [{"name": "wer", "state": "failed", "reason": "worse"}]}
    made = [
        scored(tmp_path, "hi-1", 50, 20),
        scored(tmp_path, "hi-2", 40, 25).model_copy(update={"name": "r32|<b>"}),
        scored(tmp_path, "hi-3", 30, 10).model_copy(update={"state": "failed"}),
        scored(tmp_path, "ja-1", 90, 12, "ja"),
        scored(tmp_path, "ja-2", 70, 14, "ja"),
        scored(tmp_path, "ml-1", 30, 12, "ml", **failed),
        scored(tmp_path, "ml-2", 60, 14, "ml"),
    ]
    with connect(redis_server) as client:
        for record in made:
            Records(client).create(record)
    yield Jobs(redis_server)


def test_the_best_of_each_language_is_by_its_metric_and_passed_its_checks(jobs: Jobs) -> None:
    rows = read_board(jobs)
    assert [(row.language, row.job, row.jobs) for row in rows] == [
        ("hi", "hi-2", 2),
        ("ja", "ja-1", 2),
        ("ml", "ml-2", 2),
    ]
    hindi, japanese, _ = rows
    assert (hindi.metric, hindi.before, hindi.after.rate) == ("wer", 80, 40)
    assert hindi.after.interval == (39, 41) and hindi.fewer == 50
    assert (japanese.metric, japanese.before, japanese.after.rate) == ("cer", 40, 12)
    assert [row.job for row in read_board(jobs, frozenset({"ja"}))] == ["ja-1"]


def test_a_base_on_fewer_clips_is_compared_on_these(
    redis_server: Settings, redis: Redis, tmp_path: Path
) -> None:
    rates = {"raw_wer": 0, "raw_cer": 0, "cer": 20}
    record = scored(
        tmp_path,
        "hi-1",
        50,
        20,
        base=rates | {"wer": 80, "clips": 20},
        delivered_on_base_clips=rates | {"wer": 60, "clips": 20},
    )
    with connect(redis_server) as client:
        Records(client).create(record)
    (row,) = read_board(Jobs(redis_server))
    assert (row.before, row.after.rate, row.clips, row.before_clips) == (80, 50, 50, 20)
    # 60 % and 80 % are of the same 20 clips; 50 % is of 50.
    assert row.fewer == pytest.approx(25)
    assert "| 80.0 (20 clips) | 50.0 |" in markdown([row])
    (line,) = lines_of(Jobs(redis_server), [record.id])
    assert (line.fewer, line.fewer_clips) == (pytest.approx(25), 20)


def test_the_table_fits_and_markdown_escapes(jobs: Jobs) -> None:
    rows = read_board(jobs)
    for width in (80, 100, 140):
        screen = Console(width=width, record=True, file=io.StringIO())
        screen.print(board_table(rows, width))
        heading, first, *_ = screen.export_text().splitlines()
        assert {"LANGUAGE", "BEFORE", "AFTER", "JOB"} <= set(heading.split())
        assert {"WER", "80.0", "40.0", "hi-2"} <= set(first.split())
    lines = markdown(rows).splitlines()
    assert lines[2].startswith(r"| Hindi (hi) | hi-2 (r32\|\<b\>) | demo/whisper-base | ")
    assert lines[2].count(" | ") == lines[0].count(" | ")


def row_of(language: str, rate: float, **fields: object) -> BoardRow:
    given = {"language": language, "language_name": language, "metric": "wer", "before": 90.0}
    given |= {"after": {"rate": rate}, "wer": rate, "cer": 1.0, "clips": 5, "job": f"{language}-1"}
    given |= {"name": None, "base_model": "small", "corpus": "c", "gate": None}
    return BoardRow.model_validate(given | {"finished_at": 0.0, "jobs": 1} | fields)


@pytest.mark.slow
def test_the_page_sorts_by_a_click(tmp_path: Path) -> None:
    path = tmp_path / "board.html"
    rows = [row_of("b", 9.5), row_of("a", 100.25, name="</script><img src=x>"), row_of("c", 20.0)]
    write_board(rows, path)
    page = path.read_text("utf-8")
    assert "<img src=x" not in page
    clicks = "<script>for (const it of [3, 3]) document.querySelectorAll('th button')[it].click()"
    path.write_text(f"{page}{clicks}</script>", "utf-8")
    document = browser.quiet_page(path.as_uri(), 1440)
    body = document[document.index("<tbody>") : document.index("</tbody>")]
    assert [body.index(f">{rate}") for rate in ("100.2", "20.0", "9.5")] == sorted(
        body.index(f">{rate}") for rate in ("100.2", "20.0", "9.5")
    )
    assert (
        'aria-sort="descending"' in document
        and "<svg" in document[document.index("<figure") : document.index("</figure>")]
    )


@pytest.mark.slow
def test_the_command_prints_json_and_writes_a_page(
    jobs: Jobs, redis_server: Settings, tmp_path: Path
) -> None:
    env = environment(redis_url=url_of(redis_server), home=tmp_path)
    path = tmp_path / "board.html"
    told = run("board", "--json", "--sort", "rate", "--html", str(path), env=env)
    assert (told.returncode, told.stderr) == (0, f"lorajob: wrote {path}\n")
    assert [row["job"] for row in json.loads(told.stdout)] == ["ja-1", "hi-2", "ml-2"]
    assert json.loads(told.stdout)[1]["after"] == {"rate": 40, "interval": [39, 41]}
    assert "hi-2" in path.read_text("utf-8")
