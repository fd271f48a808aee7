"""`lorajob tensorboard`."""

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lorajob.cli import tensorboard
from lorajob.cli.main import main
from lorajob.cli.tensorboard import link_runs
from lorajob.job.jobdir import JobDir
from lorajob.training.history import write_table
from tests.support.command import environment, job_record, run
from tests.support.ports import free_port
from tests.support.service import command_lines, wait_for


def test_runs_follow_a_job_from_its_attempts_to_its_stages(tmp_path: Path) -> None:
    job, shown = JobDir(tmp_path / "hi-1a2b3c4d"), tmp_path / "shown"
    shown.mkdir()
    assert link_runs(shown, {"hi-1a2b3c4d": job}) == 0
    link = shown / "hi-1a2b3c4d" / "train"
    for place in ("attempts/train-2", "attempts/train-10", "train"):
        folder = job.root / place / "tensorboard"
        folder.mkdir(parents=True)
        assert link_runs(shown, {"hi-1a2b3c4d": job}) == 1
        assert link.resolve() == folder.resolve()


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    env = environment(LORAJOB_HOME=str(tmp_path))
    told = run("tensorboard", env=env)
    assert told.returncode == 1 and "lorajob up" in told.stderr


def test_newest_jobs_without_files_here_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs" / "hi-00000001").mkdir(parents=True)
    monkeypatch.setenv("LORAJOB_ARTIFACTS", str(tmp_path / "jobs"))
    shown: list[str] = []

    class Known:
        def jobs(self, limit: int) -> list[object]:
            return [job_record(tmp_path, it) for it in ("hi-00000002", "hi-00000001")]

    monkeypatch.setattr(tensorboard, "open_client", Known)
    monkeypatch.setattr(tensorboard, "_serve", lambda _, folders, *__: shown.extend(folders) or 0)
    assert main(["tensorboard"]) == 0
    assert shown == ["hi-00000001"]
    # A job that is named must be here.
    assert main(["tensorboard", "hi-00000002"]) == 1
    assert "'hi-00000002' has no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_tensorboard_serves_linked_runs(tmp_path: Path) -> None:
    from lorajob.job.results import Scores

    job, shown, port = JobDir(tmp_path / "hi-1a2b3c4d"), tmp_path / "shown", free_port()
    shown.mkdir()
    scores = {"base": Scores(wer=1.0, cer=1.0, raw_wer=1.0, raw_cer=1.0, clips=1)}
    write_table(job.stage_dir("evaluate") / "tensorboard", scores)
    link_runs(shown, {"hi-1a2b3c4d": job})
    command = "import sys; from pathlib import Path; from lorajob.cli.tensorboard import _serve"
    script = f"{command}; sys.exit(_serve(Path({str(shown)!r}), {{}}, '127.0.0.1', {port}))"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as server:

        def runs() -> bool:
            url = f"http://127.0.0.1:{port}/data/runs"
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:
                    return b"hi-1a2b3c4d/evaluate" in answer.read()
            except OSError:
                return False

        try:
            wait_for(runs, 300)
        finally:
            server.terminate()
            server.wait(240)
    wait_for(lambda: not [it for it in command_lines().values() if f"--logdir={shown}" in it])
