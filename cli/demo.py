"""`lorajob demo`: the whole path on this machine, through the commands that a user would type."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from lorajob.cli.context import load_settings
from lorajob.cli.errors import EXIT_FAILED
from lorajob.errors import ServiceError

BASE_MODEL = "demo/whisper-base"
SETTINGS = (  # what two cores do in a few minutes
    "train.epochs=2",
    "train.save_steps=50",
)
SHOWN_TRANSCRIPTS = 3
SHOWN_CHARACTERS = 80  # an untuned model may repeat itself for a screen or two
OWN_VARIABLES = ("LORAJOB_REDIS_URL", "LORAJOB_ARTIFACTS", "LORAJOB_CORPORA")
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
OF_ONE_RUN = ("jobs", "redis", "log")  # below the demo's LORAJOB_HOME; the rest is made once
GRACE_SECONDS = "20"  # for a stage that the demo's end stops; its checkpoints hardly matter


@dataclass(frozen=True)
class Commands:
    """`lorajob` as a user runs it, in a LORAJOB_HOME that is the demo's own."""

    home: Path

    def run(
        self, *args: str, apart: bool = False, show: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Show the command, run it and return it with what it printed, whatever its exit code.

        `apart` keeps the terminal's Ctrl-C away from it.
        """
        if show:
            click.secho(f"$ lorajob {shlex.join(args)}", bold=True)
            sys.stdout.flush()
        return subprocess.run(
            [sys.executable, "-m", "lorajob.cli.main", *args],
            env=self._environment(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=apart,
            check=False,
        )

    @property
    def state_path(self) -> Path:
        """Exists while `lorajob up` runs; holds addresses and passwords."""
        return self.home / "up.json"

    def forget(self) -> None:
        """Remove an earlier run, so that no job of it goes on; models and corpus stay."""
        self.down()
        for name in OF_ONE_RUN:
            shutil.rmtree(self.home / name, ignore_errors=True)

    def up(self) -> None:
        """Start the stack, whole. Raises ServiceError where it does not start."""
        with _uninterrupted():
            started = self.run("up", "--detach", apart=True)
        click.echo(started.stdout, nl=False)
        if started.returncode != 0:
            raise ServiceError("the demo's Redis and workers did not start; see above")

    def down(self) -> None:
        """Stop the stack if there is one; Ctrl-C waits until that is done."""
        if self.state_path.exists():
            with _uninterrupted():
                click.echo(self.run("down", apart=True).stdout, nl=False)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        own = {"LORAJOB_HOME": str(self.home), "LORAJOB_GRACE_SECONDS": GRACE_SECONDS}
        return kept | own | {"PYTHONUNBUFFERED": "1"}


@click.command()
@click.option("--keep", is_flag=True, help="Leave Redis, workers and Flower up afterwards.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="As for `lorajob submit`.")
@click.pass_context
def demo(ctx: click.Context, keep: bool, sets: tuple[str, ...]) -> None:
    """Tune whisper-base on a small spoken Hindi corpus, by the real queue, on this machine.

    Needs `pip install 'lorajob[demo]'`, and no network. All its files, the tuned model too, lie
    in LORAJOB_HOME/demo, until the next run; a service that is up is not touched. Nothing is left
    running.
    """
    from lorajob.demo.packaged import packaged_files
    from lorajob.demo.speech import RELEASE, demo_corpus

    started = time.monotonic()
    packaged_files()  # before anything else: the extra may be missing
    commands = Commands(load_settings().home.expanduser().absolute() / "demo")
    commands.forget()
    click.echo("A Hindi corpus, spoken by eSpeak NG: 240 clips to train on, 40 to test")
    corpora = commands.home / "corpora"
    corpus = demo_corpus(corpora)
    kept = False
    with _ended_by_signals():
        try:
            commands.up()
            folder = _run_job(commands, corpus, sets)
            if folder is not None:
                _show_transcripts(folder)
                _transcribe_one(commands, folder, corpora / RELEASE / "hi" / "clips")
                _show_end(commands, folder, time.monotonic() - started)
            kept = keep
        finally:
            if not kept:
                commands.down()
    if kept:
        _show_kept(commands)
    if folder is None:
        ctx.exit(EXIT_FAILED)


def _run_job(commands: Commands, corpus: Path, sets: tuple[str, ...]) -> Path | None:
    """Submit and follow the job. Returns its folder, or None where it did not succeed."""
    options = [word for line in (*SETTINGS, *sets) for word in ("--set", line)]
    submitted = commands.run(
        *("submit", "--lang", "hi", "--corpus", str(corpus), "--base-model", BASE_MODEL),
        *(*options, "--wait"),
    )
    if submitted.returncode != 0:
        return None
    status = commands.run("status", submitted.stdout.strip(), "--json", show=False)
    job: dict[str, Any] = json.loads(status.stdout)
    base, tuned = (job["metrics"][name] for name in ("base", "tuned"))
    click.echo(
        f"Word error rate on sentences it never heard: "
        f"{base['wer']:.1f} % -> {tuned['wer']:.1f} %, "
        f"character error rate {base['cer']:.1f} % -> {tuned['cer']:.1f} %\n"
    )
    return Path(job["artifacts"])


def _show_transcripts(folder: Path) -> None:
    """The first test clips: what was said, what whisper-base heard, what the tuned model hears."""
    lines = (folder / "evaluate" / "utterances.jsonl").read_text("utf-8").splitlines()
    for line in lines[:SHOWN_TRANSCRIPTS]:
        row = json.loads(line)
        click.echo(f"said    {row['reference']}")
        click.echo(f"before  {_shortened(row['base'])}")
        click.echo(f"after   {_shortened(row['tuned'])}\n")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."


def _transcribe_one(commands: Commands, folder: Path, clips: Path) -> None:
    """The first test clip again, by the command. Raises ServiceError where it fails."""
    with (folder / "evaluate" / "utterances.jsonl").open(encoding="utf-8") as rows:
        clip = clips / json.loads(rows.readline())["id"]
    heard = commands.run("transcribe", folder.name, str(clip))
    if heard.returncode != 0:
        raise ServiceError(f"the tuned model did not transcribe {clip}; see above")
    click.echo(f"{heard.stdout.strip()}\n")


def _show_end(commands: Commands, folder: Path, seconds: float) -> None:
    from lorajob.cli.format import duration
    from lorajob.job.jobdir import JobDir

    result = JobDir(folder).result("convert")
    model = result.model if result is not None and result.model is not None else "convert"
    click.echo(f"The model, for faster-whisper: {folder / model}")
    click.echo(f"Took {duration(seconds)}; all files of the demo lie in {commands.home}")


def _show_kept(commands: Commands) -> None:
    """Flower's address and user, where its password is, and how to end it all."""
    state = json.loads(commands.state_path.read_text("utf-8"))
    click.echo(
        f"Flower: {state['flower_url']}, user {state['flower_user']}, "
        f"password: flower_password in {commands.state_path}"
    )
    click.echo(f"To stop it: LORAJOB_HOME={shlex.quote(str(commands.home))} lorajob down")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that its `finally` runs."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and the ending signals until the block has ended."""
    came: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    numbers = (signal.SIGINT, *ENDING_SIGNALS)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
