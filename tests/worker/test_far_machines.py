"""Machines that have only Redis and an object store in common."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.corpora import remote
from lorajob.job.jobdir import STAGES, JobDir, write_json
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.store import Store
from lorajob.tasks.bases import drop_bases
from lorajob.tasks.rebuild import rebuild
from lorajob.worker.artifacts.job_store import JobStore
from tests.support.command import environment, run, url_of
from tests.support.far import Far, new_job
from tests.support.fleet import TRAINING, end_tree
from tests.support.service import wait_for
from tests.support.speech import Spoken, make_release, pack
from tests.support.tiny import SENTENCES

SMALL = (
    "convert.check_clips=2",
    "convert.compute_types=[float32]",
    "evaluate.beam_size=1",
    "evaluate.delivered_clips=1",
    "gate.check=false",
)


@pytest.fixture
def far(bucket: str, tiny_whisper: Path, tmp_path: Path, request) -> Iterator[Far]:
    name = request.node.name.replace("_", "-")
    made = Far(tmp_path, f"{bucket}/{name}", tiny_whisper)
    try:
        made.hub.start_redis()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def corpus(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small release of tones, as a file and behind a url."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [
        Spoken(f"{split}-{number}.wav", SENTENCES[number % 4], f"s{number % 3}", split)
        for split, count in (("train", 8), ("test", 3))
        for number in range(count)
    ]
    name = "cv-corpus-9.0-2024-01-05-hi.tar.gz"
    archive = pack(make_release(folder, lines), folder / name)
    Store(bucket).upload(archive, f"corpora/{archive.name}")
    return archive, f"{bucket}/corpora/{archive.name}"


def by_hand(root: Path, spec: JobSpec, *stages: str) -> JobDir:
    """The first stages of the same job in one folder, without any service."""
    job = JobDir(root)
    write_json(job.spec_path, spec.model_dump(mode="json"))
    for stage in stages:
        command = [sys.executable, "-m", "lorajob.stage", stage, str(root)]
        subprocess.run(command, check=True, capture_output=True)
    return job


def here(spec: JobSpec, corpus: Path, base: Path) -> JobSpec:
    return spec.model_copy(update={"corpus": str(corpus), "base_model": str(base)})


def files_of(job: JobDir, stage: str) -> dict[str, str]:
    files = json.loads((job.stage_dir(stage) / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


def test_a_job_crosses_machines_that_share_no_disk(
    far: Far, corpus, brief_whisper: Path, tmp_path: Path
):
    archive, url = corpus
    cpu, gpu, user = far.machine("cpu"), far.machine("gpu"), far.machine("user")
    cpu.start_worker("cpu")
    gpu.start_worker("gpu")
    base = Path(shutil.copytree(brief_whisper, tmp_path / "my base"))
    values = {"language": "hi", "corpus": url, "base_model": str(base)}
    sets = [*(line for line in TRAINING if "epochs" not in line), "train.epochs=2", *SMALL]
    spec = build_spec(values, sets=sets)
    job_id = user.jobs.submit(spec)
    shutil.rmtree(base)  # the workers have it of the store
    record = user.wait_until(user.records.load(job_id), "succeeded", 180)
    assert record.folder == f"{far.artifacts}/{job_id}"
    compared = ("preprocess", "train", "evaluate")
    alone = by_hand(tmp_path / "alone", here(spec, archive, brief_whisper), *compared)
    far_job = JobStore(record.folder, tmp_path / "reader")
    for stage in STAGES:
        far_job.fetch_stage(stage, record.stages[stage].attempt)
    for stage in compared:
        theirs, ours = files_of(far_job.job, stage), files_of(alone, stage)
        wanted = [name for name in ours if name.endswith((".arrow", "adapter_model.safetensors"))]
        assert {name: theirs[name] for name in wanted} == {name: ours[name] for name in wanted}
    results = [record.stages["evaluate"].result, alone.result("evaluate")]
    assert results[0].tuned == results[1].tuned and results[0].tuned is not None
    homes = {home: far.folder / home / "jobs" / job_id for home in ("cpu", "gpu", "user")}
    assert not homes["user"].exists()  # who submits keeps nothing
    assert not (homes["gpu"] / "convert").exists()
    assert (homes["cpu"] / "train" / "adapter").is_dir()
    assert not (homes["cpu"] / "train" / "tensorboard").exists()  # what convert does without

    env = environment(home=user.home, artifacts=far.artifacts, redis_url=url_of(user.settings))
    logs = run("logs", job_id, env=env)
    assert all(f"==> {stage} <==" in logs.stdout for stage in STAGES), logs
    sound = str(next(archive.parent.rglob("*.wav")))
    transcript = run("transcribe", job_id, "--base", sound, env=env)
    assert transcript.returncode == 0, transcript.stderr
    page = tmp_path / "page.html"
    report = run("report", job_id, "-o", str(page), env=env)
    assert report.returncode == 0, report.stderr
    assert "<audio" in page.read_text("utf-8")
    copy = far.folder / "user" / "jobs" / job_id
    assert not (copy / "train" / "adapter").exists() and not (copy / "preprocess/train").exists()
    stored = record.base_model
    assert stored.startswith(f"{far.artifacts}/.bases/") and stored.endswith("/my-base")
    verified = run("verify", job_id, env=env)
    assert verified.returncode == 0, verified.stderr
    start = {"language": "hi", "corpus": url, "start": {"job": job_id}}
    following = user.jobs.resolve(build_spec(start))
    user.jobs.check(following)
    assert following.base_model == stored
    assert drop_bases(user.jobs) == []
    far.hub.kill_redis()
    shown = run("status", job_id, "--json", env=env)
    assert json.loads(shown.stdout)["state"] == "succeeded", shown.stderr


def test_training_goes_on_where_a_lost_machine_stopped(far: Far, expected: bytes, tmp_path: Path):
    first, second = far.machine("first"), far.machine("second")
    first.start_worker("gpu")
    first.start_worker("cpu")
    record = new_job(far, first, "hi-lost")
    stored = JobStore(record.folder, first.settings.workplace)
    first.train_to(record, 25)
    wait_for(lambda: stored.checkpoints() and stored.checkpoints()[-1][1] >= 20, 90)
    for worker in first.workers:
        end_tree(worker)
    assert first.load(record).stages["train"].state == "running"
    shutil.rmtree(first.home)
    second.start_worker("gpu")
    second.start_worker("cpu")
    done = second.wait_until(record, "succeeded", 120)
    assert done.stages["train"].attempts == 2
    log = second.settings.workplace / record.id / "log" / "train.log"
    assert "from step" in log.read_text() or "step-" in log.read_text()
    reader = JobStore(record.folder, tmp_path / "reader")
    reader.fetch_stage("train", done.stages["train"].attempt)
    adapter = reader.job.stage_dir("train") / "adapter" / "adapter_model.safetensors"
    assert adapter.read_bytes() == expected
    assert stored.checkpoints() == []  # the adapter has taken their place


def test_a_stopped_worker_leaves_its_checkpoint_in_the_store(far: Far, tmp_path: Path):
    machine = far.machine("first")
    gpu = machine.start_worker("gpu")
    machine.start_worker("cpu")
    record = new_job(far, machine, "hi-stopped")
    machine.train_to(record, 13)
    gpu.signal(signal.SIGTERM)
    gpu.process.wait(240)
    stopped = machine.load(record).stages["train"]
    assert stopped.state == "queued"
    stored = JobStore(record.folder, tmp_path)
    fence, step = stored.checkpoints()[-1]  # made when it stopped
    assert fence == 1 and step >= max(13, stopped.checkpoint or 0)
    assert stored.store.read("log/train/1.log")


def test_records_are_rebuilt_from_the_store_alone(far: Far, tmp_path: Path):
    machine, user = far.machine("first"), far.machine("user")
    record = new_job(far, machine, "hi-rebuilt", "train.epochs=1")
    machine.start_worker("cpu")
    wait_for(lambda: machine.load(record).missing == ("train", "evaluate", "convert"))
    far.hub.kill_redis()
    far.hub.start_redis(wipe=True)
    assert rebuild(user.settings).jobs == ("hi-rebuilt",)
    rebuilt = user.records.load(record.id)
    assert rebuilt.folder == record.folder
    assert rebuilt.missing == ("train",)  # evaluate and convert are in the store as well
    machine.start_worker("gpu")
    user.wait_until(record, "succeeded")


def test_a_corpus_is_fetched_once_a_machine(corpus, monkeypatch, tmp_path: Path):
    archive, url = corpus
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    fetches = "import sys; from lorajob.corpora.remote import fetch; print(fetch(sys.argv[1]))"
    command = [sys.executable, "-c", fetches, url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=240)[0].strip() for process in both}
    path = Path(paths.pop())
    assert not paths and path.read_bytes() == archive.read_bytes()
    before = path.stat()
    assert remote.fetch(url) == path and path.stat().st_ino == before.st_ino
    monkeypatch.setenv("LORAJOB_CORPORA_GB", "0")
    with remote.in_use(url):
        remote.make_room(0)
        assert path.exists()
    remote.make_room(0)
    assert not path.exists()


def test_a_corpus_that_was_cut_off_goes_on(corpus, monkeypatch, tmp_path: Path):
    archive, url = corpus
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))
    monkeypatch.setattr(remote, "CHUNK_BYTES", archive.stat().st_size // 20)

    checks = itertools.count()

    def cut():
        if next(checks) == 8:  # of about twenty
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.fetch(url, cut)
    (part,) = tmp_path.rglob(".part-*")
    began = part.stat()
    path = remote.fetch(url)
    assert path.stat().st_ino == began.st_ino and began.st_size > 0
    assert path.read_bytes() == archive.read_bytes()


def test_submit_knows_a_corpus_that_is_not_there(bucket: str, redis_server, tmp_path: Path):
    env = environment(home=tmp_path, redis_url=url_of(redis_server))
    for corpus, words in (
        (f"{bucket}/nothing-hi.tar.gz", "does not exist"),
        (f"{bucket}/table.tsv", "is not an archive"),
        ("bogus://x/hi.tar.gz", "bogus"),
    ):
        told = run("submit", "--lang", "hi", "--corpus", corpus, env=env)
        assert told.returncode == 2 and words in told.stderr, told
        assert "Traceback" not in told.stderr
