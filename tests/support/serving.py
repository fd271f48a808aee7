"""A real `lorajob serve` with tiny models, and jobs that have such a model."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from lorajob.decoding.config import DecodeConfig, TokenLimits, write_config
from lorajob.job.jobdir import JobDir, write_json
from lorajob.job.results import StageResult
from lorajob.spec import build_spec
from tests.support import command
from tests.support.procs import children

RATE = 16_000
# An untrained model trips every threshold: it is not decoded again.
BRIEF = DecodeConfig(
    language="hi",
    cut=False,  # what is decoded together with a clip does not change its text
    no_speech=None,
    temperatures=(0.0,),
    limits=TokenLimits(tokens=12, tokens_a_second=4.0, seconds=30),
)


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: "subprocess.Popen[str]"
    home: Path

    @property
    def api(self) -> str:
        return f"{self.url}/v1"

    def models(self) -> list[int]:
        """The process ids of its models."""
        return children(self.process.pid)


@contextmanager
def serving(
    home: Path, *options: str, env: dict[str, str] | None = None, log: Path | None = None
) -> Iterator[Server]:
    """`lorajob serve` on a free port of 127.0.0.1, until the block ends."""
    variables = command.environment(home=home, artifacts=home / "jobs") | (env or {})
    log = log or home / "serve.log"
    with log.open("w") as errors:
        process = command.start("serve", "--port", "0", *options, env=variables, stderr=errors)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Serving at "), log.read_text()
        yield Server(line.split()[2].removesuffix("/v1;"), process, home)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(240)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()


def delivered_job(
    home: Path,
    job_id: str,
    model: Path,
    language: str = "hi",
    config: DecodeConfig = BRIEF,
    **fields: object,
) -> JobDir:
    """A job whose convert stage is finished with a copy of `model`. `fields` are of its result."""
    job = JobDir(home / "jobs" / job_id)
    spec = build_spec({"language": language, "corpus": "unused", "base_model": "tiny"})
    write_json(job.spec_path, spec.model_dump(mode="json"))
    out = job.new_attempt("convert", 1)
    shutil.copytree(model, out / "model")
    write_config(out / "model", config.model_copy(update={"language": language}))
    values = {"model": "convert/model"} | fields
    job.commit("convert", out, StageResult.model_validate(values))
    return job


def tone(path: Path, seconds: float, seed: int = 0) -> Path:
    """A file of noisy tones."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    sound = 0.2 * np.sin(2 * np.pi * (200 + 50 * seed) * time) + rng.normal(0, 0.02, len(time))
    soundfile.write(path, sound.astype(np.float32), RATE)
    return path


def lorajob(home: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """Run a command on the jobs of a server."""
    return command.run(*args, env=command.environment(home=home, artifacts=home / "jobs"))
