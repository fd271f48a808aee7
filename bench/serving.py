"""Load `lorajob serve` and the two servers that people write around faster-whisper.

    python bench/serving.py --model MODEL --clips FOLDER --concurrency 1,4,16

    python bench/serving.py --model MODEL --clips FOLDER --minutes 60 --servers serve,batched

MODEL is a CTranslate2 folder with lorajob.json, or without it for a base. FOLDER has sound files,
and `texts.tsv` (name, tab, text) if word errors are wanted. The servers are

    serve     lorajob serve: windows of all requests in batches, as the model was scored
    lock      WhisperModel behind FastAPI, one request at a time
    batched   BatchedInferencePipeline behind FastAPI, one request at a time

All decode the same clips with the beams and temperatures of lorajob.json, in the same type. `lock`
decodes with timestamps, its default; `batched` decodes without, its default. The generator is
seeded: request n is the same clip for each server. With --minutes, the only request is one long
recording of the clips, with pauses of 0.3 to 1 s. CPU seconds are of all processes of a server,
without loading the model. They say more than times on a machine that others use.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

SERVERS = ("serve", "lock", "batched")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Row:
    """What one server did at one concurrency."""

    server: str
    concurrency: int
    requests: int
    seconds: float
    cpu_seconds: float
    latencies: tuple[float, ...]
    wer: float | None

    def cells(self) -> list[str]:
        slow = sorted(self.latencies)[int(0.95 * (len(self.latencies) - 1))]
        return [
            *(self.server, str(self.concurrency), f"{self.requests / self.seconds:.2f}"),
            f"{self.cpu_seconds / self.requests:.2f}",
            f"{statistics.median(self.latencies):.2f}",
            f"{slow:.2f}",
            "" if self.wer is None else f"{self.wer:.1f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="CTranslate2 folder")
    parser.add_argument("--clips", type=Path, required=True, help="folder of sound files")
    parser.add_argument("--lang", default="hi", help="Whisper code (default: hi)")
    parser.add_argument("--concurrency", default="1,4,16,64", help="default: 1,4,16,64")
    parser.add_argument("--requests", type=int, default=64, help="at each concurrency")
    parser.add_argument("--minutes", type=float, help="one request: a recording of this length")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other", choices=SERVERS[1:], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.other:
        run_other(args.other, args.model, args.port)
        return
    clips = sorted(it for it in args.clips.iterdir() if it.suffix in SOUNDS)
    texts = read_texts(args.clips / "texts.tsv")
    chosen = random.Random(args.seed).choices(clips, k=args.requests)
    concurrencies = list(map(int, args.concurrency.split(",")))
    warming = chosen[:1]
    if args.minutes:
        held = tempfile.TemporaryDirectory()
        path = Path(held.name) / "long.flac"
        texts[path.name] = write_long(path, clips, texts, args.minutes, args.seed)
        chosen, concurrencies = [path], [1]
    print("| server | at a time | requests a s | CPU s a request | p50 s | p95 s | WER % |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for server in args.servers.split(","):
        with running(server, args.model) as (url, pid):
            name = args.model.resolve().name if server == "serve" else "whisper-1"
            load(url, name, args.lang, warming, 1)  # loads the model
            for concurrency in concurrencies:
                before, began = cpu_seconds(pid), time.monotonic()
                heard, latencies = load(url, name, args.lang, chosen, concurrency)
                spent, cpu = time.monotonic() - began, cpu_seconds(pid) - before
                wer = word_errors(chosen, heard, texts, args.lang) if texts else None
                row = Row(server, concurrency, len(chosen), spent, cpu, tuple(latencies), wer)
                print(f"| {' | '.join(row.cells())} |", flush=True)


def read_texts(path: Path) -> dict[str, str]:
    """Name of a file -> its text."""
    if not path.is_file():
        return {}
    rows = (line.split("\t", 1) for line in path.read_text("utf-8").splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def write_long(
    path: Path, clips: Sequence[Path], texts: dict[str, str], minutes: float, seed: int
) -> str:
    """Write clips in a random order, joined with pauses, `minutes` in all. Returns their text."""
    import numpy as np
    import soundfile

    from lorajob.speech.audio import SAMPLE_RATE, load_audio

    chance = random.Random(seed)
    left, said = minutes * 60 * SAMPLE_RATE, []
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        while left > 0:
            for clip in chance.sample(clips, len(clips)):
                samples = load_audio(clip, 600)
                pause = np.zeros(int(chance.uniform(0.3, 1) * SAMPLE_RATE), np.float32)
                file.write(np.concatenate([samples, pause]))
                said.append(texts.get(clip.name, ""))
                left -= samples.size + pause.size
                if left <= 0:
                    break
    return " ".join(said)


def word_errors(
    clips: Sequence[Path], heard: Sequence[str], texts: dict[str, str], language: str
) -> float:
    from lorajob.speech.scoring import score

    known = [(texts[clip.name], text) for clip, text in zip(clips, heard, strict=True)]
    return score([it for it, _ in known], [it for _, it in known], language).wer


def load(
    url: str, model: str, language: str, clips: Sequence[Path], concurrency: int
) -> tuple[list[str], list[float]]:
    """The texts and latencies of one request for each clip, `concurrency` at a time."""
    client = OpenAI(base_url=f"{url}/v1", api_key="any", timeout=3600, max_retries=0)

    def ask(clip: Path) -> tuple[str, float]:
        began = time.monotonic()
        with clip.open("rb") as file:
            found = client.audio.transcriptions.create(file=file, model=model, language=language)
        return found.text, time.monotonic() - began

    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(ask, clips))
    return [it for it, _ in answers], [it for _, it in answers]


@contextmanager
def running(server: str, model: Path) -> Iterator[tuple[str, int]]:
    """The address and process id of a server, until the block ends."""
    with tempfile.TemporaryDirectory() as home:
        if server == "serve":
            # An hour takes longer than the server allows a request by default.
            command = ["-m", "lorajob", "serve", "--models", str(model), "--port", "0"]
            command += ["--timeout", "7200"]
        else:
            command = [__file__, "--other", server, "--model", str(model), "--clips", "."]
            command += ["--port", "0"]
        env = os.environ | {"LORAJOB_HOME": home}
        process = subprocess.Popen(
            [sys.executable, *command], env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("Serving at "):
                raise SystemExit(f"{server} did not start")
            yield line.split()[2].removesuffix(";").removesuffix("/v1"), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its running children."""
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    spent = sum(map(int, stat[11:13])) / TICK
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(it) for path in tasks for it in path.read_text("utf-8").split()]
    return spent + sum(map(cpu_seconds, children))


def run_other(kind: str, folder: Path, port: int) -> None:
    """A server as people write it: the model, FastAPI and a lock."""
    import socket

    import uvicorn
    from fastapi import FastAPI, Form, UploadFile
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    from lorajob.decoding.config import DecodeConfig, read_config

    model = WhisperModel(str(folder))
    pipeline = BatchedInferencePipeline(model) if kind == "batched" else model
    lock = threading.Lock()
    config = read_config(folder) or DecodeConfig(language="en")
    options = {"beam_size": config.beam_size, "temperature": list(config.temperatures)}
    app = FastAPI()

    @app.post("/v1/audio/transcriptions")
    def transcribe(file: UploadFile, language: str = Form()) -> dict[str, str]:
        with lock:
            segments, _ = pipeline.transcribe(file.file, language=language, **options)
            return {"text": " ".join(it.text.strip() for it in segments)}

    with socket.create_server(("127.0.0.1", port)) as listening:
        print(f"Serving at http://127.0.0.1:{listening.getsockname()[1]}/v1;", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main()
