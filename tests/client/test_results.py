"""What a finished job gives, and training without a service."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

import lorajob
from lorajob.client import local
from lorajob.client.local import LocalResults
from lorajob.client.progress import ProgressLine
from lorajob.client.service import Client
from lorajob.errors import CorpusError, StageError, UsageError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.spec import build_spec
from lorajob.tasks.jobs import Jobs
from lorajob.worker.records.record import JobRecord
from lorajob.worker.settings import Settings
from tests.support.command import finished
from tests.support.corpora import write_corpus
from tests.support.finished import RATES

FAKE = str(Path(__file__).parents[1] / "support" / "fake_stage.py")
pytestmark = pytest.mark.slow


@pytest.fixture
def done(finished_job: Path) -> LocalResults:
    return LocalResults(JobDir(finished_job))


def test_error_rates_are_those_of_metrics_json(done: LocalResults) -> None:
    path = done.folder / "evaluate" / "metrics.json"
    assert done.metrics == json.loads(path.read_text())
    assert done.scores["delivered"].wer == RATES["delivered"]["wer"]
    assert done.scores["base"].wer_interval == tuple(RATES["base"]["wer_interval"])
    assert done.adapter == done.folder / "train" / "adapter"


def test_utterances_are_a_table(done: LocalResults) -> None:
    path = done.folder / "evaluate" / "utterances.jsonl"
    kept = path.read_text()
    rows = [json.loads(line) for line in kept.splitlines()]
    del rows[0]["base"]  # a clip that only lorajob's decoder heard
    # It ends a line of a text, but not of JSON.
    rows[1]["tuned"] = "a\u2028b"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    table = done.utterances()
    path.write_text(kept)
    assert table.num_rows == 4
    assert {"id", "seconds", "reference", "base", "tuned"} <= set(table.column_names)
    assert table.column("base").to_pylist() == [None, "a", "a", "a"]
    assert table.column("tuned")[1].as_py() == "a\u2028b"
    assert list(table.to_pandas()["id"]) == [row["id"] for row in rows]


def test_the_model_transcribes(done: LocalResults, tmp_path: Path) -> None:
    from faster_whisper import WhisperModel

    time = np.arange(16_000) / 16_000
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * time), 16_000)
    WhisperModel(str(done.model))
    one = done.transcribe(str(path))
    assert one.path == path and one.seconds == 1.0 and str(one) == one.text
    assert [it.text for it in one.passages] == [one.text] and one.passages[0].end == 1.0
    assert done.transcribe([path, path]) == [one, one]
    (timed,) = done.transcribe([path], words=True)
    words = timed.passages[0].words
    assert timed.text == one.text and words
    assert all(0 <= it.start <= it.end <= 1.0 for it in words)
    with pytest.raises(UsageError, match=r"no\.wav is not a file"):
        done.transcribe([path, tmp_path / "no.wav"])


def test_the_page_is_drawn_if_it_is_missing(
    done: LocalResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(job: JobDir, path: Path, full: bool) -> None:
        path.write_text(f"page of {job.root.name}" + full * ", in full")

    # Drawing it takes seconds; tests/library/test_report_page.py does.
    monkeypatch.setitem(sys.modules, "lorajob.reporting.page", SimpleNamespace(write_report=draw))
    page = done.report
    assert page == done.folder / "report.html" and page.read_text() == "page of hi-1"
    page.write_text("the job's own")
    assert done.report.read_text() == "the job's own"
    copy = done.write_report(page.with_name("copy.html"))
    assert copy.read_text() == "the job's own"
    assert done.write_report(copy, full=True).read_text() == "page of hi-1, in full"
    copy.unlink()
    page.unlink()


def test_a_job_of_a_service_gives_the_same(done: LocalResults) -> None:
    settings = Settings(artifacts=done.folder.parent)
    record = JobRecord(
        id="hi-1",
        language="hi",
        state="succeeded",
        created_at=1.0,
        corpus="c",
        base_model="b",
        folder=str(done.folder),
        stages=finished("preprocess", "train", "evaluate", "convert"),
    )
    record.save()
    job = Client(Jobs(settings)).job("hi-1")
    assert job.metrics == done.metrics and job.model == done.model
    (done.folder / "job.json").unlink()


def test_results_before_their_stage_are_refused(tmp_path: Path) -> None:
    job = JobDir(tmp_path / "hi-2")
    spec = build_spec({"language": "hi", "corpus": "c"})
    write_json(job.spec_path, spec.model_dump(mode="json"))
    empty = LocalResults(job)
    advice = f"; train_locally(..., folder='{tmp_path / 'hi-2'}') continues it"
    for ask, said in (
        (lambda: empty.metrics, "stage evaluate has not finished"),
        (lambda: empty.model, "stage convert has not finished"),
        (lambda: empty.report, "has no error rates yet"),
        (empty.open_model, "has no model yet"),
    ):
        with pytest.raises(StageError) as raised:
            ask()
        assert str(raised.value) == f"hi-2: {said}{advice}"


def quiet() -> ProgressLine:
    return ProgressLine("hi-1", silent=True)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    command = (sys.executable, FAKE)
    monkeypatch.setattr(
        local,
        "_command",
        lambda stage, job, n: [*command, stage, str(job.root), "--attempt", str(n), "--supervised"],
    )


def test_a_stage_runs_in_a_process_of_its_own(fake: None, tmp_path: Path) -> None:
    job = JobDir(tmp_path / "hi-1")
    job.root.mkdir()
    local._run_child("preprocess", job, quiet())
    assert job.result("preprocess") is not None
    assert "and one that warns" in job.log_path("preprocess").read_text()
    with pytest.raises(CorpusError, match="no usable clip"):
        local._run_child("failing", job, quiet())
    with pytest.raises(StageError, match=r"stage buggy broke with exit code 1; .*buggy\.log"):
        local._run_child("buggy", job, quiet())


def test_an_interrupt_lets_the_stage_save(
    fake: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    job = JobDir(tmp_path / "hi-1")
    job.root.mkdir()
    monkeypatch.setattr(ProgressLine, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        local._run_child("train", job, quiet())
    assert f"the same call again continues {job.root}" in capsys.readouterr().err


def test_a_finished_folder_is_returned_and_another_one_kept(
    done: LocalResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = done.spec
    again = lorajob.train_locally(
        "hi",
        spec.corpus,
        spec.base_model,
        folder=done.folder,
        sets=["convert.compute_types=[float32]"],
    )
    assert again.metrics == done.metrics
    assert capsys.readouterr().err == "hi-1: succeeded\n"
    with pytest.raises(UsageError, match="stages: 'training' is not allowed; allowed: preprocess,"):
        lorajob.train_locally("hi", spec.corpus, folder=done.folder, stages=["training"])
    with pytest.raises(UsageError, match=r"a job with other settings \(seed, convert\)"):
        lorajob.train_locally("hi", spec.corpus, spec.base_model, folder=done.folder, seed=3)
    begun = tmp_path / "begun"
    write_json(begun / "spec.json", spec.model_dump(mode="json"))
    sets = ["convert.compute_types=[float32]"]
    none = lorajob.train_locally(
        "hi", spec.corpus, spec.base_model, folder=begun, sets=sets, stages=()
    )
    assert none.folder == begun
    assert "preprocess, train, evaluate, convert not run yet" in capsys.readouterr().err
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and has no job"):
        lorajob.train_locally("hi", spec.corpus, folder=tmp_path)


def test_a_local_job_gets_copies_of_its_text_and_terms(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "hi.csv")
    files = {"text": "एक वाक्य\n", "glossary": "Nairobi\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content, "utf-8")
    paths = {name: str(tmp_path / name) for name in files}
    for _ in range(2):  # the second call continues it
        made = lorajob.train_locally(
            "hi", corpus, folder=tmp_path / "job", stages=(), progress=False, evaluate=paths
        )
    job = JobDir(made.folder)
    assert [it.read_text("utf-8") for it in (job.text, job.glossary)] == list(files.values())
