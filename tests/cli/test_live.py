"""What a user sees of a running job: a steady forecast, signs of life, and the end of `logs -f`."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from lorajob.cli.progress_bars import BarView, LineView, Signs, bars, fitting
from lorajob.client.job import Job
from lorajob.client.requests import load_settings
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Pace, PassProgress, Progress, Report
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.words import progress_words
from lorajob.worker.records.record import StageRecord, new_stages
from tests.support.command import JOB, job_record
from tests.support.terminal import plain


def test_a_forecast_is_exact_at_a_steady_rate_and_follows_a_change_slowly() -> None:
    pace = Pace()
    assert pace.eta(0, 100, 50.0) is None  # 50 s of loading do not count
    assert pace.eta(1, 100, 52.0) == pytest.approx(198)
    for step in range(2, 51):
        assert pace.eta(step, 100, 50.0 + 2 * step) == pytest.approx(2 * (100 - step))
    slow = pace.eta(51, 100, 190.0)  # one step took 40 s
    assert slow is not None and 98 < slow < 250
    for number in range(1, 9):  # from now on each takes 20 s
        slow = pace.eta(51 + number, 100, 190.0 + 20 * number)
    assert slow == pytest.approx(41 * 20, rel=0.2)
    assert pace.eta(100, 100, 400.0) == 0


def test_a_forecast_begins_anew_if_the_steps_do() -> None:
    pace = Pace()
    pace.eta(0, 10, 0.0)
    assert pace.eta(5, 10, 10.0) == pytest.approx(10)
    assert pace.eta(1, 10, 20.0) is None


def test_the_time_within_a_long_step_is_taken_off() -> None:
    pace = Pace()
    pace.eta(0, 3, 0.0)
    assert pace.eta(1, 3, 30.0) == pytest.approx(60)
    assert pace.eta(1, 3, 40.0) == pytest.approx(50)


def test_the_passes_of_a_stage_count_on_and_never_back() -> None:
    stream = io.StringIO()
    passes = PassProgress(Report("evaluate", stream), {"conversion": 0, "tuned": 4, "gate": 2})
    passes.passed()
    for done in (1, 4, 0):  # a second pass over clips that loop begins at 0
        passes.done(done)
    passes.passed()
    passes.done(1, "gate: noise")
    passes.passed()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(it["step"], it["total"], it.get("phase")) for it in events] == [
        (0, 6, "tuned"),
        (1, 6, "tuned"),
        (4, 6, "tuned"),
        (4, 6, "tuned"),
        (4, 6, "gate"),
        (5, 6, "gate: noise"),
        (6, 6, None),
    ]
    assert list(passes.seconds) == ["conversion", "tuned", "gate"]


def test_the_forecast_of_passes_is_shown_before_they_begin(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    passes = PassProgress(Report("evaluate", stream), {"tuned": 100, "delivered": 10, "gate": 10})
    passes.expect({"tuned": 50.0, "delivered": 30.0, "gate": 20.0})
    now[0] = 1.0
    passes.done(2)  # too few to trust their pace
    now[0] = 40.0
    passes.done(50)
    passes.passed()
    passes.done(0)
    passes.passed()
    passes.done(10)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(it["step"], round(it["eta_seconds"])) for it in events] == [
        (0, 100),
        (2, 99),
        (50, 90),
        (100, 50),
        (100, 50),
        (110, 20),
        (120, 0),
    ]


def test_a_phase_stands_in_the_progress() -> None:
    progress = Progress.model_validate({"step": 2, "total": 5, "phase": "parity 3/16"})
    assert progress_words(progress) == "2/5, parity 3/16"


def test_a_quiet_stage_says_how_long_ago_its_last_step_was() -> None:
    now = [0.0]
    signs = Signs(lambda: now[0])
    stage = StageRecord(state="running", progress=Progress(step=1, total=9))
    assert signs.words("train", stage) == ""
    now[0] = 45.0
    assert signs.words("train", stage) == "last step 45 s ago"
    assert signs.words("evaluate", StageRecord(state="running")) == ""
    later = stage.model_copy(update={"progress": Progress(step=2, total=9)})
    assert signs.words("train", later) == ""
    now[0] = 100.0
    assert signs.words("evaluate", StageRecord(state="running")) == "no step yet"


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (64, "45/180, loss 1.93, eta 12 min, running 5 min, last step 40 s ago"),
        (52, "45/180, loss 1.93, eta 12 min, last step 40 s ago"),
        (40, "45/180, eta 12 min, last step 40 s ago"),
        (30, "45/180, last step 40 s ago"),
    ],
)
def test_a_narrow_line_keeps_the_step_and_the_last_sign_of_life(width: int, words: str) -> None:
    parts = ["45/180, loss 1.93, eta 12 min", "running 5 min, last step 40 s ago"]
    assert fitting(parts, width) == words


@pytest.mark.parametrize("columns", [60, 80])
def test_a_bar_keeps_its_length_and_its_words_fit(tmp_path: Path, columns: int) -> None:
    screen = Console(width=columns, file=io.StringIO(), force_terminal=True)
    now = [0.0]
    shown = bars(screen)
    view = BarView(shown, job_record(tmp_path), Signs(lambda: now[0], lambda: now[0]))
    progress = Progress(step=45, total=180, loss=1.934, eta_seconds=754.2)
    drawn = []
    for seconds, step in ((5, None), (10, progress), (45, progress)):
        now[0] = seconds
        stage = StageRecord(state="running", attempts=1, started_at=1.0, progress=step)
        view.update(job_record(tmp_path, stages=new_stages() | {"train": stage}))
        with screen.capture() as capture:
            screen.print(shown.get_renderable())
        drawn.append(plain(capture.get().encode())[1])
    begins = [line.index(word) for line, word in zip(drawn, ("run", "45/", "45/"), strict=True)]
    assert set(begins) == {{60: 20, 80: 30}[columns]}
    assert drawn[0].endswith(" running 4 s") and drawn[2].endswith(", last step 35 s ago")
    assert all(len(line) <= columns and "…" not in line for line in drawn)


def test_lines_go_on_while_a_stage_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorajob.cli.progress_bars.LINE_SECONDS", 0.0)
    stream = io.StringIO()
    view = LineView(stream)
    record = job_record(tmp_path, state="running")
    stages = {"preprocess": StageRecord(state="running", progress=Progress(step=1, total=99))}
    for _ in range(2):
        view.update(record.model_copy(update={"stages": record.stages | stages}))
    assert f"{JOB} preprocess: 1/99" in stream.getvalue().splitlines()[-1]


def test_following_a_log_ends_when_the_service_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    for name in ("LORAJOB_REDIS_URL", "LORAJOB_ARTIFACTS"):
        monkeypatch.delenv(name, raising=False)
    record = job_record(tmp_path / "jobs", state="running")
    record.save()
    folder = JobDir(Path(record.folder))
    folder.log_path("train").parent.mkdir()
    folder.log_path("train").write_text("step 1\n", "utf-8")
    job = Job(Jobs(load_settings()), JOB)
    assert list(job.logs("train", follow=True)) == ["step 1\n"]
    told = capsys.readouterr()
    assert f"the service is down, and {JOB} has not ended; `lorajob up` continues it" in told.err
