"""Many languages as one batch under workers that come with the work and leave after it.

LORAJOB_TEST_LANGUAGES=12 is the whole of it, as bench/RESULTS.md has it; two are enough to hold
that nothing of it broke. The model is tiny and random, the speech eSpeak NG's, all else real.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from lorajob.demo.speech import pack_release, speak_corpus
from lorajob.job.jobdir import hash_file
from lorajob.storage.store import Store
from lorajob.storage.urls import is_url
from lorajob.worker.heartbeats import living
from lorajob.worker.records.batches import Batches
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.browser import find_browser, get, page
from tests.support.command import LORAJOB, environment, run, url_of
from tests.support.ports import free_port
from tests.support.procs import children, command_line, descendants, running
from tests.support.service import FLOWER_PASSWORD, wait_for

WORDS = {
    "hi": "पानी घर किताब सड़क बाज़ार सुबह",
    "mr": "पाणी घर पुस्तक रस्ता बाजार सकाळ",
    "ne": "पानी घर किताब बाटो बजार बिहान",
    "ta": "தண்ணீர் வீடு புத்தகம் சாலை சந்தை காலை",
    "te": "నీరు ఇల్లు పుస్తకం రోడ్డు బజారు ఉదయం",
    "kn": "ನೀರು ಮನೆ ಪುಸ್ತಕ ರಸ್ತೆ ಮಾರುಕಟ್ಟೆ ಬೆಳಿಗ್ಗೆ",
    "ml": "വെള്ളം വീട് പുസ്തകം റോഡ് ചന്ത രാവിലെ",
    "bn": "জল বাড়ি বই রাস্তা বাজার সকাল",
    "gu": "પાણી ઘર પુસ્તક રસ્તો બજાર સવાર",
    "pa": "ਪਾਣੀ ਘਰ ਕਿਤਾਬ ਸੜਕ ਬਜ਼ਾਰ ਸਵੇਰ",
    "sw": "maji nyumba kitabu barabara soko asubuhi",
    "de": "Wasser Haus Buch Straße Markt Morgen",
}
LANGUAGES = list(WORDS)[: int(os.environ.get("LORAJOB_TEST_LANGUAGES", "2"))]
SPOILT = "cy"  # none of its files is audio
SETTINGS = "train: {epochs: 1, batch_clips: 2, threads: 1, precision: float32, rank: 4}"
# An untrained model trips every threshold of the decoders: few clips, and no gate.
# float32 is converted in any case, for the comparison with transformers.
UNTRAINED = (
    "evaluate: {delivered_clips: 1}\n"
    "  convert: {check_clips: 1, compute_types: [float32]}\n"
    "  gate: {check: false}"
)
SECONDS = 240 * len(LANGUAGES)
IDLE_SECONDS = 8.0
KEEP_SECONDS = "5"  # Celery's own: how long a process of the cpu pool stays without work


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of a few clips for each language, and one that holds no speech."""
    folder = tmp_path_factory.mktemp("corpora")
    for code in LANGUAGES:
        words = WORDS[code].split()
        train = [f"{first} {second}" for first in words[:3] for second in words[3:5]]
        spoken = speak_corpus(folder, code, train, [f"{words[0]} {words[5]}"], [])
        pack_release(spoken)
    for name in ("one.wav", "two.wav"):
        (folder / name).write_bytes(b"no audio")
    (folder / "spoilt.tsv").write_text("audio\ttext\none.wav\tdŵr\ntwo.wav\ttŷ\n", "utf-8")
    return folder


@dataclass(frozen=True)
class Staff:
    """What works on a batch, as its processes and its heartbeats tell."""

    redis: Redis
    cpu: subprocess.Popen[bytes]
    scaler: subprocess.Popen[bytes]

    @property
    def ready(self) -> bool:
        return bool(living(self.redis, "cpu"))

    def count(self) -> tuple[int, int]:
        """Processes of the cpu pool, and gpu workers that are heard of."""
        pool = [it for it in children(self.cpu.pid) if "spawn_main" in command_line(it)]
        return len(pool), len(living(self.redis, "gpu"))  # Celery's resource tracker is no worker

    @property
    def gone(self) -> bool:
        """Whether there is neither, nor any process of a gpu worker."""
        # Not of what asks for the GPUs.
        started = [it for it in children(self.scaler.pid) if "celery" in command_line(it)]
        return self.count() == (0, 0) and not started


@contextmanager
def fleet(redis: Redis, env: dict[str, str], logs: Path) -> Iterator[Staff]:
    """Up to two processes for cpu stages and two gpu workers, none of them before there is work."""
    commands = {
        "cpu": ["worker", "--queue", "cpu", "--autoscale", "2,0"],
        "gpu": ["autoscale", "--min", "0", "--max", "2", "--idle", str(IDLE_SECONDS)],
    }
    started = []
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("wb") as log:
                process = subprocess.Popen([*LORAJOB, *command], env=env, stdout=log, stderr=log)
            started.append(process)
        yield Staff(redis, *started)
        assert all(process.poll() is None for process in started)
    finally:
        trees = [pid for process in started for pid in (process.pid, *descendants(process.pid))]
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(timeout=240)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in filter(running, trees):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def flower(env: dict[str, str]) -> Iterator[str]:
    """Flower in front of the same Redis; its url."""
    port = free_port()
    command = [*LORAJOB, "flower", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        command, env=env | {"LORAJOB_FLOWER_PASSWORD": FLOWER_PASSWORD}, **quiet
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=240)


def answers(pages: str) -> bool:
    try:
        return bool(get(f"{pages}/healthcheck", "lorajob", FLOWER_PASSWORD))
    except OSError:  # it does not listen yet
        return False


def submitted(env: dict[str, str], corpora: Path, base: Path, place: Path) -> str:
    """The id of the batch of all languages, the one that must fail before the others."""
    file = place / "fleet.yaml"
    file.write_text(
        f"defaults:\n  corpus: {corpora}/cv-corpus-demo-{{language}}.tar.gz\n"
        f"  base_model: {base}\n  {SETTINGS}\n"
        f"  {UNTRAINED}\nlanguages:\n"
        f"  {SPOILT}: {{corpus: {corpora}/spoilt.tsv}}\n"
        + "".join(f"  {code}:\n" for code in LANGUAGES),
        "utf-8",
    )
    done = run("batch", str(file), env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def through(staff: Staff, batch_id: str) -> tuple[list[JobRecord], tuple[int, int], float]:
    """Wait for the end of a batch and until nobody is left: its jobs, the most cpu processes and
    gpu workers at a time, seconds.
    """
    records, jobs = Records(staff.redis), Batches(staff.redis).load(batch_id).jobs
    most, began = (0, 0), time.monotonic()

    def over() -> bool:
        nonlocal most
        cpu, gpu = staff.count()
        most = max(most[0], cpu), max(most[1], gpu)
        return all(record.over for record in records.load_many(jobs))

    wait_for(over, SECONDS)
    took = time.monotonic() - began
    wait_for(lambda: staff.gone, 90)  # they leave by themselves
    return records.load_many(jobs), most, took


def seen(pages: str, jobs: list[JobRecord]) -> dict[str, str]:
    """What a browser shows of each language's training, on the page of its task."""
    tasks = json.loads(get(f"{pages}/api/tasks?limit=1000", "lorajob", FLOWER_PASSWORD))
    trainings = {
        job.language: uuid
        for uuid, task in tasks.items()
        for job in jobs
        if task["name"] == "lorajob.train" and job.id in task["args"]
    }
    signed_in = pages.replace("://", f"://lorajob:{FLOWER_PASSWORD}@")
    return {
        language: " ".join(re.sub(r"<[^>]*>", " ", page(f"{signed_in}/task/{uuid}")).split())
        for language, uuid in trainings.items()
    }


def adapter_hash(job: JobRecord) -> str:
    """SHA-256 of a job's adapter, from its folder or from the store."""
    name = "adapter/adapter_model.safetensors"
    if not is_url(job.folder):
        return hash_file(Path(job.folder) / "train" / name)
    store = Store(job.folder)
    (key,) = [key for key in store.names("train") if key.endswith(name)]
    return hashlib.sha256(store.read(key) or b"").hexdigest()


def test_a_batch_runs_over_night_with_a_shared_folder_or_a_store_to_the_same_adapters(
    corpora: Path,
    brief_whisper: Path,
    redis_server: Settings,
    redis: Redis,
    bucket: str,
    tmp_path: Path,
) -> None:
    find_browser()
    adapters: list[dict[str, str]] = []
    for form, place in (("folder", None), ("store", f"{bucket}/overnight")):
        here = tmp_path / form
        here.mkdir()
        env = environment(redis_url=url_of(redis_server), home=here, grace_seconds="5")
        env |= {"LORAJOB_ARTIFACTS": place} if place else {}
        env |= {"OMP_NUM_THREADS": "1", "AUTOSCALE_KEEPALIVE": KEEP_SECONDS}
        with fleet(redis, env, here) as staff, flower(env) as pages:
            wait_for(lambda: staff.ready and answers(pages))  # so that Flower misses nothing
            assert staff.gone, "somebody is there before there is work"
            batch = submitted(env, corpora, brief_whisper, here)
            jobs, most, took = through(staff, batch)
            (spoilt,) = [job for job in jobs if job.language == SPOILT]
            jobs.remove(spoilt)
            shown = seen(pages, jobs) if place is None else {}
        assert (spoilt.state, spoilt.stages["preprocess"].attempts) == ("failed", 1)
        assert "has no usable train clip" in (spoilt.error or "")
        states = {job.language: (job.state, job.error) for job in jobs}
        assert states == {code: ("succeeded", None) for code in LANGUAGES}
        assert most == (2, 2)
        assert all(stage.attempts == 1 for job in jobs for stage in job.stages.values())
        if place is None:
            assert shown.keys() == states.keys()
            for job in jobs:
                assert f"{job.id} (" in shown[job.language] and "SUCCESS" in shown[job.language]
        print(f"{form}: {len(jobs)} languages in {took:.0f} s, at most {most} cpu and gpu")
        adapters.append({job.language: adapter_hash(job) for job in jobs})
        redis.flushall()
    assert adapters[0] == adapters[1]
    assert len(set(adapters[0].values())) == len(LANGUAGES)
