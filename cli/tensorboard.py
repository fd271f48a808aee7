"""`lorajob tensorboard`: curves of jobs, also of running ones, in TensorBoard."""

import importlib.util
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from lorajob.cli.context import JOB, job_of, open_client
from lorajob.errors import JobNotFoundError, StageError, UsageError
from lorajob.job.jobdir import JOB_ID, JobDir

FOLDER = "tensorboard"
# What is fetched of a job in a store.
FILES = (f"train/{FOLDER}", f"evaluate/{FOLDER}")
NEWEST = 20  # jobs without JOB
LOOK_SECONDS = 5.0  # between two searches for new files of running jobs


@click.command()
@click.argument("jobs", type=JOB, metavar="[JOB...]", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on. Default: 6006, or the next one that is free.",
)
@click.pass_context
def tensorboard(ctx: click.Context, jobs: tuple[str, ...], host: str, port: int | None) -> None:
    """Show the curves of JOBs in TensorBoard, until Ctrl-C.

    It also shows validation, settings, and sound and transcripts of five clips. Without JOB, it
    shows the newest jobs. The curves of running jobs are updated. TensorBoard has no login: with
    `--host 0.0.0.0` every machine in the network can open it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("tensorboard: not installed; `pip install tensorboard` installs it")
    named = list(jobs) or [it.id for it in open_client().jobs(NEWEST)]
    if not named:
        raise UsageError("JOB: there are no jobs yet; `lorajob submit` queues one")
    with ExitStack() as held:
        shown = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lorajob-tensorboard-")))
        folders = {}
        for job in named:
            try:
                folders[job] = held.enter_context(job_of(job).files(*FILES))
            # Of the newest jobs, those with files are shown.
            except JobNotFoundError:
                if jobs:
                    raise
        # A running job of a store has files on its worker's machine only.
        if not link_runs(shown, folders) and jobs:
            raise StageError(
                f"{', '.join(jobs)}: no curves here yet; the stage train writes them, in a store "
                "when it ends"
            )
        ctx.exit(_serve(shown, folders, host, port))


def link_runs(shown: Path, folders: dict[str, JobDir]) -> int:
    """Link `shown`/JOB/train and `shown`/JOB/evaluate to the folders of TensorBoard's files.

    Returns how many there are. A finished stage is preferred to its newest attempt.
    """
    found = 0
    for job, folder in folders.items():
        if not JOB_ID.fullmatch(job):
            continue
        for stage in ("train", "evaluate"):
            target = _files_of(folder, stage)
            link = shown / job / stage
            if target is not None and not (link.is_symlink() and link.readlink() == target):
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(target)
            found += target is not None
    return found


def _files_of(folder: JobDir, stage: str) -> Path | None:
    newest = folder.root / "attempts" / f"{stage}-{folder.last_attempt(stage)}"
    for place in (folder.stage_dir(stage), newest):
        if (place / FOLDER).is_dir():
            return (place / FOLDER).resolve()
    return None


def _serve(shown: Path, folders: dict[str, JobDir], host: str, port: int | None) -> int:
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={shown}", f"--host={host}"]
    command += [] if port is None else [f"--port={port}"]
    process = subprocess.Popen([*command, "--reload_interval=5"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        while True:
            try:
                code = process.wait(LOOK_SECONDS)
                # TensorBoard itself says why, such as a port in use.
                return 0 if code == 0 else 1
            except subprocess.TimeoutExpired:
                link_runs(shown, folders)
    finally:
        process.terminate()
        process.wait()
