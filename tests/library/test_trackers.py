"""Experiment trackers: what they get, and that none can harm a job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lorajob.bundle.facts import read_facts
from lorajob.cli.spec_options import tracker_values
from lorajob.errors import UsageError
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import Scores, StageResult
from lorajob.spec import JobSpec, build_spec
from lorajob.training import tracker_main, trackers
from lorajob.training.history import write_table
from lorajob.training.tracker_main import Message
from lorajob.training.trackers import Trackers, flat_settings, send_results, tracked

RATES = {
    "base": Scores(wer=80.0, cer=40.0, raw_wer=90.0, raw_cer=45.0, clips=9, wer_interval=(70, 90)),
    "delivered": Scores(wer=20.0, cer=9.0, raw_wer=30.0, raw_cer=10.0, clips=9),
}
STUB = """
import json, sys
for line in sys.stdin:
    it = json.loads(line)
    if it["do"] != "begin":
        print(json.dumps({"tracker": "wandb", "fault": line.strip()}), flush=True)
"""


def make_spec(*names: str, corpus: str = "hi.tsv") -> JobSpec:
    return build_spec({"language": "hi", "corpus": corpus, "trackers": list(names)})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of the process itself needs the packages."""
    monkeypatch.setattr(trackers, "missing_packages", lambda names: [])


def evaluated(tmp_path: Path) -> JobDir:
    job = JobDir(tmp_path / "hi-1a2b3c4d")
    out = job.new_attempt("evaluate", 1)
    job.commit("evaluate", out, StageResult.model_validate(RATES))
    job.report_path.write_text("<p>the report", "utf-8")
    return job


@pytest.mark.slow
def test_wandb_and_mlflow_get_settings_curves_results_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    job, spec = evaluated(tmp_path), make_spec("wandb", "mlflow")
    opened = Trackers(spec, job)
    for step in (1, 2, 3):
        opened.log(step, {"train/loss": 3.0 - step})
    opened.log(3, {"validation/wer": 61.5})
    opened.table(RATES)
    opened.file(job.report_path)
    assert opened.close(300) == []
    (run,) = (tmp_path / "mlruns").glob("*/*/params/..")
    assert (run / "params" / "train.epochs").read_text() == "3"
    losses = (run / "metrics" / "train" / "loss").read_text().splitlines()
    assert [line.split()[1:] for line in losses] == [["2.0", "1"], ["1.0", "2"], ["0.0", "3"]]
    assert (run / "metrics" / "validation" / "wer").read_text().split()[1:] == ["61.5", "3"]
    assert (run / "metrics" / "final" / "delivered_wer").read_text().split()[1] == "20.0"
    assert (run / "artifacts" / "report.html").read_text() == "<p>the report"
    assert "| base | 80.0 | 70.0 | 90.0 | 40.0 | 9 |" in (run / "artifacts/results.md").read_text()
    (offline,) = (tmp_path / "home" / "trackers" / "wandb").glob("offline-run-*-hi-1a2b3c4d")
    sent = b"".join(path.read_bytes() for path in offline.glob("*.wandb"))
    assert all(it in sent for it in (b"train/loss", b"validation/wer", b"final/delivered_wer"))
    assert b"train.epochs" in sent and b"report-hi-1a2b3c4d" in sent


def test_accelerates_state_is_made_before_the_trackers_begin_together() -> None:
    code = """
from accelerate import PartialState
from lorajob.training import tracker_main

class Stub:
    def __init__(self, begin):
        self.note = f"state: {bool(PartialState._shared_state)}"
    def end(self):
        pass

tracker_main.KINDS = {"wandb": Stub, "mlflow": Stub}
tracker_main.main()
"""
    begin = {"do": "begin", "trackers": ["wandb", "mlflow"], "job": "hi-1a2b3c4d"}
    given = f"{json.dumps(begin)}\n{json.dumps({'do': 'end', 'seconds': 240})}\n"
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True
    )
    notes = [json.loads(line)["note"] for line in done.stdout.splitlines()]
    assert notes == ["state: True"] * 2


@pytest.mark.usefixtures("installed")
def test_the_last_stage_sends_the_table_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Trackers, "_tell", lambda self, **message: said.append(message))
    monkeypatch.setattr(trackers, "COMMAND", (sys.executable, "-c", ""))
    job = evaluated(tmp_path)
    send_results(make_spec("tensorboard"), job)
    assert said == []
    send_results(make_spec("wandb"), job)
    begin, table, file = said
    assert begin["job"] == "hi-1a2b3c4d" and begin["config"] == {}
    assert table["rows"][1] == ["delivered", 20.0, None, None, 9.0, 9]
    assert file == {"do": "file", "path": str(job.report_path)}


@pytest.mark.usefixtures("installed")
def test_every_fault_of_a_tracker_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, spec = JobDir(tmp_path), make_spec("wandb")
    crash = Trackers(spec, job, (sys.executable, "-c", "import os; os._exit(9)"))
    crash.log(1, {"train/loss": 1.0})
    assert crash.close() == ["tracker trackers: their process ended with code 9"]
    absent = Trackers(spec, job, (str(tmp_path / "missing"),))
    absent.log(1, {"train/loss": 1.0})
    why = "its process did not start: No such file or directory"
    assert absent.close() == [f"tracker wandb: {why}"]
    monkeypatch.setattr(trackers, "LEFT_SECONDS", 60.0)
    told = Trackers(spec, job, (sys.executable, "-c", STUB))
    told.log(7, {"train/loss": 1.0})
    assert json.loads(told.close()[0].removeprefix("tracker wandb: "))["step"] == 7
    monkeypatch.setattr(trackers, "LEFT_SECONDS", 0.0)
    hung = Trackers(spec, job, (sys.executable, "-c", "import time; time.sleep(3600)"))
    for step in range(20_000):  # far more than a pipe holds
        hung.log(step, {"train/loss": 1.0})
    assert hung.close(0.1) == ["tracker trackers: did not end within 0 s; what was left is lost"]


@pytest.mark.usefixtures("installed")
def test_a_training_that_fails_ends_its_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "COMMAND", (sys.executable, "-c", STUB))
    monkeypatch.setattr(trackers, "STOPPED_SECONDS", 240.0)
    with pytest.raises(ZeroDivisionError), tracked(make_spec("wandb"), JobDir(tmp_path)) as opened:
        raise ZeroDivisionError
    end = json.loads(opened.faults[0].removeprefix("tracker wandb: "))
    assert end == {"do": "end", "seconds": trackers.STOPPED_SECONDS}


def test_a_broken_tracker_leaves_the_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-of-a-user")
    got: list[object] = []

    class Refused:
        def __init__(self, begin: object) -> None:
            raise SystemExit("401 at https://me:pass@wandb.example for s3cr3t-of-a-user")

    class Works:
        note = "run 1"

        def __init__(self, begin: object) -> None:
            pass

        def log(self, messages: list[Message]) -> None:
            got.extend(it.step for it in messages)

        def table(self, message: Message) -> None:
            got.append(message.do)

        def end(self) -> None:
            got.append("end")

    monkeypatch.setitem(tracker_main.KINDS, "wandb", Refused)
    monkeypatch.setitem(tracker_main.KINDS, "mlflow", Works)
    said: list[dict[str, str]] = []
    senders = [
        tracker_main.Sender(name, Message(do="begin"), lambda **it: said.append(it))
        for name in ("wandb", "mlflow")
    ]
    for sender in senders:
        for step in (1, 2, 3):
            sender.messages.put(Message(do="log", step=step))
        sender.messages.put(Message(do="table"))
        sender.messages.put(Message(do="log", step=4))
        sender.messages.put(None)
        sender.start()
    for sender in senders:
        sender.join()
    assert got == [1, 2, 3, "table", 4, "end"]
    fault = "SystemExit: 401 at https://***@wandb.example for ***"
    assert {"tracker": "wandb", "fault": fault} in said
    assert {"tracker": "mlflow", "note": "run 1"} in said


def test_a_missing_package_is_said_at_submit_and_by_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advice = "the package of wandb is not installed; `pip install 'lorajob[wandb]'` installs it"
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "no_such_package")
    opened = Trackers(make_spec("wandb"), JobDir(tmp_path))
    opened.log(1, {"train/loss": 1.0})
    assert opened.close() == [f"tracker wandb: {advice}"]
    monkeypatch.delenv("LORAJOB_REDIS_URL", raising=False)
    with pytest.raises(UsageError, match=r"--tracker: the package of wandb is not installed"):
        tracker_values(("tensorboard,wandb",))
    # The workers are on other machines, which may have it.
    monkeypatch.setenv("LORAJOB_REDIS_URL", "redis://127.0.0.1:1")
    assert tracker_values(("wandb", "TensorBoard")) == {"trackers": ("tensorboard", "wandb")}
    assert capsys.readouterr().err == f"lorajob: {advice}; the workers need it, too\n"
    with pytest.raises(UsageError, match=r"'comet' is unknown; allowed: tensorboard, wandb, mlfl"):
        tracker_values(("comet",))


def test_a_model_card_names_no_fault_of_a_tracker(tmp_path: Path) -> None:
    job = evaluated(tmp_path)
    write_json(job.spec_path, make_spec("mlflow").as_written())
    said = StageResult(
        warnings=["tracker mlflow: no answer from http://10.0.0.5"], notes=["a note"]
    )
    job.commit("train", job.new_attempt("train", 1), said)
    facts = read_facts(job)
    assert (facts.warnings, facts.notes) == ([], ["a note"])


def test_settings_are_sent_without_secrets() -> None:
    terms = {"glossary": "https://me:secret@example.org/hi.txt"}
    place = "https://me:secret@example.org/hi.tar?token=abc"
    flat = flat_settings(build_spec({"language": "hi", "corpus": place, "evaluate": terms}))
    assert flat["evaluate.glossary"] == "https://***@example.org/hi.txt"
    assert flat["train.epochs"] == 3 and flat["language"] == "hi"
    assert json.loads(str(flat["train.target_modules"]))[0] == "q_proj"
    assert "secret" not in str(flat["corpus"]) and "abc" not in str(flat["corpus"])


def test_tensorboard_has_the_final_table(tmp_path: Path) -> None:
    write_table(tmp_path, RATES)
    board = EventAccumulator(os.fspath(tmp_path))
    board.Reload()
    assert board.Scalars("final/delivered_wer")[0].value == 20.0
    (text,) = board.Tensors("results/text_summary")
    assert b"| base | 80.0 | 70.0 | 90.0 | 40.0 | 9 |" in text.tensor_proto.string_val[0]
