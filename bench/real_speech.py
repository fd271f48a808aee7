"""Run one job through the whole service and append its results to bench/RESULTS.md.

    python bench/real_speech.py --corpus cv-corpus-ml.tar.gz --lang ml

Without --corpus it makes the demo's corpus. It starts its own service, in a temporary LORAJOB_HOME
or in that of --home.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS.md"
GIB = 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="release or manifest; default: the demo's")
    parser.add_argument("--lang", default="hi", help="code of the language (default: hi)")
    parser.add_argument("--base-model", default="demo/whisper-base", help="as for submit")
    parser.add_argument("--preset", default="default", help="as for submit")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--home", type=Path, help="LORAJOB_HOME, kept (default: a temporary one)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append to")
    args = parser.parse_args()
    with _home(args.home) as home:
        corpus = args.corpus or _spoken(home)
        options = ["--base-model", args.base_model, "--preset", args.preset]
        options += [word for line in args.sets for word in ("--set", line)]
        command = ["submit", "--lang", args.lang, "--corpus", str(corpus), *options, "--wait"]
        job, seconds = _run(home, command)
    if job["state"] != "succeeded":
        print(f"{job['id']} {job['state']}: {job['error']}", file=sys.stderr)
        return 1
    command[command.index("--corpus") + 1] = corpus.name
    section = _section(job, args.base_model, shlex.join(["lorajob", *command]), seconds)
    with args.results.open("a", encoding="utf-8") as file:
        file.write(section)
    print(section)
    return 0


@contextmanager
def _home(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="lorajob-bench-") as folder:
        yield Path(folder)


def _spoken(home: Path) -> Path:
    from lorajob.demo.speech import demo_corpus

    return demo_corpus(home / "corpora")


def _run(home: Path, command: list[str]) -> tuple[dict[str, Any], float]:
    """The finished job, from `status --json`, and the seconds from submit to its end."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        _lorajob(home, "up", "--detach", "--no-flower")
        started = time.monotonic()
        job_id = _lorajob(home, *command, check=False).strip()
        seconds = time.monotonic() - started
        if not job_id:
            sys.exit(1)  # submit has printed the reason
        job: dict[str, Any] = json.loads(_lorajob(home, "status", job_id, "--json"))
        return job, seconds
    finally:
        _lorajob(home, "down", check=False)


def _lorajob(home: Path, *args: str, check: bool = True) -> str:
    own = {"LORAJOB_HOME": str(home)}
    names = ("LORAJOB_REDIS_URL", "LORAJOB_ARTIFACTS", "LORAJOB_CORPORA")
    env = {key: value for key, value in os.environ.items() if key not in names} | own
    line = [sys.executable, "-m", "lorajob.cli.main", *args]
    return subprocess.run(line, env=env, stdout=subprocess.PIPE, text=True, check=check).stdout


def _section(job: dict[str, Any], base_model: str, command: str, seconds: float) -> str:
    results = {name: stage["result"] or {} for name, stage in job["stages"].items()}
    read = results["preprocess"]
    lines = [
        f"\n## {job['language']}, {base_model}, {time.strftime('%Y-%m-%d')}\n",
        f"- Machine: {machine()}",
        f"- Command: `{command}`",
        f"- Corpus: {read['train_clips']} clips ({read['train_hours']:.2f} h) to train on, "
        f"{read['test_clips']} ({read['test_hours']:.2f} h) to test",
        f"- Submit to end: {seconds:.0f} s\n",
        "| | WER % | CER % |",
        "| --- | ---: | ---: |",
    ]
    for name, rates in job["metrics"].items():
        lines.append(f"| {name} | {rates['wer']:.1f} | {rates['cer']:.1f} |")
    lines += ["", "| stage | wall s | CPU s |", "| --- | ---: | ---: |"]
    for name, stage in job["stages"].items():
        wall = stage["finished_at"] - stage["started_at"]
        cpu = results[name].get("cpu_seconds")
        lines.append(f"| {name} | {wall:.0f} | {'' if cpu is None else f'{cpu:.0f}'} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores, memory and versions; nothing that names the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
    count = f"{cores} core{'s' * (cores > 1)}"
    return f"{_processor()}, {count}, {memory:.0f} GiB memory, {versions}{_gpus()}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpus() -> str:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return ", no GPU"
    return "".join(f", {name.strip()}" for name in names if name.strip())


if __name__ == "__main__":
    sys.exit(main())
