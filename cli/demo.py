"""`lorajob demo`: a whole job on this machine, run by the commands that a user would type."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from lorajob.cli.context import load_settings
from lorajob.cli.errors import EXIT_FAILED
from lorajob.errors import ServiceError
from lorajob.visible import raw_stream

BASE_MODEL = "demo/whisper-base"
# Two cores train with these settings in a few minutes.
SETTINGS = (
    "train.epochs=2",
    "train.save_steps=50",
    # faster-whisper takes seconds a clip, and longer where the base model repeats itself.
    "evaluate.delivered_clips=16",
    "evaluate.base_clips=8",
    "gate.minutes=1",
)
SHOWN_TRANSCRIPTS = 3
SHOWN_CHARACTERS = 80  # of a transcript: an untuned model may repeat itself for pages
OWN_VARIABLES = ("LORAJOB_REDIS_URL", "LORAJOB_ARTIFACTS", "LORAJOB_CORPORA")
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Folders below the demo's LORAJOB_HOME that each run makes anew. Models and corpus are made once.
OF_ONE_RUN = ("jobs", "redis", "log")
# Time for a stage to stop when the demo ends. Short, because its checkpoints hardly matter.
GRACE_SECONDS = "20"


@dataclass(frozen=True)
class Commands:
    """Runs `lorajob` as a user does, with the demo's own LORAJOB_HOME."""

    home: Path

    def run(
        self, *args: str, apart: bool = False, show: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Show the command, run it and return the finished process, with any exit code.

        With `apart`, the terminal's Ctrl-C does not reach the command.
        """
        if show:
            click.secho(f"$ lorajob {shlex.join(args)}", bold=True, file=raw_stream(sys.stdout))
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
        """File that exists while `lorajob up` runs. It holds addresses and passwords."""
        return self.home / "up.json"

    def forget(self) -> None:
        """Remove an earlier run, so that none of its jobs continues. Models and corpus stay."""
        self.down()
        for name in OF_ONE_RUN:
            shutil.rmtree(self.home / name, ignore_errors=True)

    def up(self) -> None:
        """Start Redis, workers and Flower. Raises ServiceError if they do not start."""
        with _uninterrupted():
            started = self.run("up", "--detach", apart=True)
        click.echo(started.stdout, nl=False)
        if started.returncode != 0:
            raise ServiceError("the demo's Redis and workers did not start; see above")

    def down(self) -> None:
        """Stop Redis, workers and Flower if they run. Ctrl-C takes effect only after that."""
        if self.state_path.exists():
            with _uninterrupted():
                click.echo(self.run("down", apart=True).stdout, nl=False)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
        own = {"LORAJOB_HOME": str(self.home), "LORAJOB_GRACE_SECONDS": GRACE_SECONDS}
        return kept | own | {"PYTHONUNBUFFERED": "1"}


@click.command()
@click.option("--keep", is_flag=True, help="Leave Redis, workers and Flower running at the end.")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="As for `lorajob submit`.")
@click.pass_context
def demo(ctx: click.Context, keep: bool, sets: tuple[str, ...]) -> None:
    """Tune whisper-base on a small Hindi corpus of synthetic speech, on this machine.

    The demo uses the real queue and workers. It needs `pip install 'lorajob[demo]'` and no network.
    All files, including the tuned model, are in LORAJOB_HOME/demo until the next run. At the end
    everything is stopped, unless --keep is given. It does not use a service that is already
    running.
    """
    from lorajob.demo.packaged import packaged_files
    from lorajob.demo.speech import RELEASE, demo_corpus

    started = time.monotonic()
    # Fails at once if the demo extra is not installed.
    packaged_files()
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
    """Submit and follow the job. Returns its folder, or None if it did not succeed."""
    options = [word for line in (*SETTINGS, *sets) for word in ("--set", line)]
    submitted = commands.run(
        "submit",
        "--lang",
        "hi",
        "--corpus",
        str(corpus),
        "--base-model",
        BASE_MODEL,
        *options,
        "--wait",
    )
    if submitted.returncode != 0:
        return None
    status = commands.run("status", submitted.stdout.strip(), "--json", show=False)
    job = json.loads(status.stdout)
    base, delivered = (job["metrics"][name] for name in ("base", "delivered"))
    click.echo(
        f"Word error rate on sentences that were not in training: "
        f"{base['wer']:.1f} % -> {delivered['wer']:.1f} %, "
        f"character error rate {base['cer']:.1f} % -> {delivered['cer']:.1f} %\n"
    )
    return Path(job["artifacts"])


def _show_transcripts(folder: Path) -> None:
    """Print reference, whisper-base's and the tuned model's transcript of the first test clips."""
    lines = (folder / "evaluate" / "utterances.jsonl").read_bytes().splitlines()
    # Only some clips were decoded by the base model too.
    rows = [row for row in map(json.loads, lines) if "base" in row]
    for row in rows[:SHOWN_TRANSCRIPTS]:
        click.echo(f"said    {row['reference']}")
        click.echo(f"before  {_shortened(row['base'])}")
        click.echo(f"after   {_shortened(row['delivered'])}\n")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."


def _transcribe_one(commands: Commands, folder: Path, clips: Path) -> None:
    """Transcribe the first test clip with `lorajob transcribe`. Raises ServiceError if it fails."""
    with (folder / "evaluate" / "utterances.jsonl").open(encoding="utf-8") as rows:
        clip = clips / json.loads(rows.readline())["id"]
    heard = commands.run("transcribe", folder.name, str(clip))
    if heard.returncode != 0:
        raise ServiceError(f"the tuned model did not transcribe {clip}; see above")
    click.echo(f"{heard.stdout.strip()}\n")


def _show_end(commands: Commands, folder: Path, seconds: float) -> None:
    from lorajob.job.jobdir import JobDir
    from lorajob.tasks.words import duration

    result = JobDir(folder).result("convert")
    model = result.model if result is not None and result.model is not None else "convert"
    click.echo(f"The model, for faster-whisper: {folder / model}")
    click.echo(f"Took {duration(seconds)}; all files of the demo are in {commands.home}")


def _show_kept(commands: Commands) -> None:
    """Print Flower's address, user and place of the password, and how to stop everything."""
    state = json.loads(commands.state_path.read_text("utf-8"))
    click.echo(
        f"Flower: {state['flower_url']}, user {state['flower_user']}, "
        f"password: flower_password in {commands.state_path}"
    )
    click.echo(f"To stop it: LORAJOB_HOME={shlex.quote(str(commands.home))} lorajob down")
    if state.get("web_url"):
        click.echo(f"Password of the pages: {commands.home / 'web' / 'access.json'}")
        click.echo(state["web_url"])


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block by an exception, as Ctrl-C does, so `finally` runs."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    with _handled(ENDING_SIGNALS, end):
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and the ending signals until the block has ended."""
    came: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    with _handled((signal.SIGINT, *ENDING_SIGNALS), note):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def _handled(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Have `handler` receive these signals until the block has ended."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
