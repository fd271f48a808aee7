"""Draw docs/progress.svg: `lorajob watch` during a training, and at the end of the job.

`--record` first runs `lorajob demo` in a temporary home and keeps two answers of `lorajob status
JOB --json` in docs/progress.json: one from the training, one from the end. Without it, the picture
is drawn from the answers that are there. The code that draws is that of `lorajob watch`.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from lorajob.cli.format import metrics_table
from lorajob.cli.progress_bars import BarView, Signs, bars
from lorajob.worker.records.record import JobRecord

RECORDING = Path(__file__).with_name("progress.json")
PICTURE = Path(__file__).with_name("progress.svg")
COLUMNS = 84
SHOWN_SHARE = 0.6  # of the training, in the upper half
POLL_SECONDS = 2
FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # they load a font from a web server
LORAJOB = (sys.executable, "-m", "lorajob.cli.main")


def record() -> list[dict[str, Any]]:
    """Run the demo; return the job's status during the training and at the end."""
    with TemporaryDirectory() as home:
        env = os.environ | {"LORAJOB_HOME": home}
        demo_env = env | {"LORAJOB_HOME": f"{home}/demo"}
        with subprocess.Popen([*LORAJOB, "demo"], env=env) as demo:
            frames: list[dict[str, Any]] = []
            # The demo ends by itself: a stage that makes no step is stopped.
            while demo.poll() is None:
                time.sleep(POLL_SECONDS)
                frames += [frame | {"seen_at": time.time()} for frame in status(demo_env)]
        if demo.returncode != 0:
            sys.exit("the demo failed")
        training = [frame for frame in frames if share(frame) > 0]
        # The service has ended, so this is read from job.json. A look at the running service could
        # miss the end of the job.
        end = status(demo_env, training[0]["id"]) if training else []
    if not end or end[0]["state"] != "succeeded":
        sys.exit("the recording lacks the training or the end of the job")
    middle = min(training, key=lambda frame: abs(share(frame) - SHOWN_SHARE))
    return [cleaned(middle), cleaned(end[0])]


def status(env: dict[str, str], *job: str) -> list[dict[str, Any]]:
    """The jobs that `lorajob status --json` prints; empty if no service is up.

    With the id of a job only that one, also without a service.
    """
    done = subprocess.run(
        [*LORAJOB, "status", *job, "--json"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else []
    return found if isinstance(found, list) else [found]


def share(frame: dict[str, Any]) -> float:
    """How much of the training is done, 0 to 1; 0 unless it runs."""
    stage = frame["stages"]["train"]
    progress = stage["progress"] or {}
    if stage["state"] != "running" or not progress.get("total"):
        return 0.0
    done: float = progress["step"] / progress["total"]
    return done


def cleaned(frame: dict[str, Any]) -> dict[str, Any]:
    """The frame without names of machines and users, and without absolute paths."""
    stages = {name: stage | {"worker": None} for name, stage in frame["stages"].items()}
    names = {
        "user": None,
        "attempts": [],
        "artifacts": "jobs/" + frame["id"],
        "corpus": Path(frame["corpus"]).name,
    }
    return frame | names | {"stages": stages}


def draw(frames: list[dict[str, Any]]) -> str:
    """The picture, as SVG."""
    picture = Console(
        file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, highlight=False
    )
    prompt = Text.assemble(("$ ", "dim"), (f"lorajob watch {frames[0]['id']}", "bold"))
    for title, frame in zip(("during the training", "at the end"), frames, strict=True):
        job = JobRecord.model_validate(frame | {"folder": frame["artifacts"]})
        progress = bars(picture)
        # The picture has the time of its recording, so that it is the same whenever it is drawn.
        seen_at = frame.get("seen_at", job.created_at)
        BarView(progress, job, Signs(now=partial(float, seen_at))).update(job)
        picture.print(prompt, Text(f"  # {title}", "dim"), sep="")
        picture.print(progress.get_renderable())
        picture.print()
        if (table := metrics_table(job)) is not None and job.over:
            picture.print(table)
    svg = picture.export_svg(title="lorajob", unique_id="lorajob")
    return FONT_FACE.sub("", svg)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of a job's progress.")
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    parser.add_argument("--record", action="store_true", help="run `lorajob demo` first")
    args = parser.parse_args()
    if args.record:
        RECORDING.write_text(json.dumps(record(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    args.picture.write_text(draw(json.loads(RECORDING.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
