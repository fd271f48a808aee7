"""`lorajob tensorboard`: curves of jobs, also of running ones, in TensorBoard."""

import importlib.util
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from lorajob.cli.context import JOB, job_of, open_client
from lorajob.errors import JobNotFoundError, StageError, UsageError
from lorajob.job.jobdir import CURVES, JOB_ID, JobDir

# What is fetched of a job in a store.
FILES = (f"train/{CURVES}", f"evaluate/{CURVES}")
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
    named = jobs_to_show(jobs)
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
        if not link_runs(shown, folders) and jobs:
            raise no_curves(jobs)
        ctx.exit(_serve(shown, folders, host, port))


def jobs_to_show(jobs: tuple[str, ...]) -> list[str]:
    """The named jobs, or the newest ones. Raises UsageError without any, or without TensorBoard."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("tensorboard: not installed; `pip install tensorboard` installs it")
    named = list(jobs) or [it.id for it in open_client().jobs(NEWEST)]
    if not named:
        raise UsageError("JOB: there are no jobs yet; `lorajob submit` queues one")
    return named


def no_curves(jobs: tuple[str, ...]) -> StageError:
    """The error about named jobs without files."""
    # A running job of a store has files on its worker's machine only.
    return StageError(
        f"{', '.join(jobs)}: no curves here yet; the stage train writes them, in a store when it "
        "ends"
    )


def link_runs(shown: Path, folders: dict[str, JobDir]) -> int:
    """Link `shown`/JOB/train and `shown`/JOB/evaluate to the folders of TensorBoard's files.

    Returns how many there are. A finished stage is preferred to its newest attempt.
    """
    found = 0
    for job, folder in folders.items():
        if not JOB_ID.fullmatch(job):
            continue
        for stage in ("train", "evaluate"):
            target = folder.curves(stage)
            link = shown / job / stage
            if target is not None and not (link.is_symlink() and link.readlink() == target):
                link.parent.mkdir(exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(target)
            found += target is not None
    return found


def _serve(shown: Path, folders: dict[str, JobDir], host: str, port: int | None) -> int:
    return show_runs(shown, lambda: link_runs(shown, folders), host, port, LOOK_SECONDS)


def show_runs(
    shown: Path, look: Callable[[], object], host: str, port: int | None, seconds: float
) -> int:
    """Run TensorBoard on `shown` until it ends, and `look` for new files every some `seconds`.

    Returns the exit code.
    """
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={shown}", f"--host={host}"]
    command += [] if port is None else [f"--port={port}"]
    process = subprocess.Popen([*command, "--reload_interval=5"])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        while True:
            try:
                code = process.wait(seconds)
                # TensorBoard itself says why, such as a port in use.
                return 0 if code == 0 else 1
            except subprocess.TimeoutExpired:
                look()
    finally:
        process.terminate()
        process.wait()
