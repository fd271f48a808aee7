"""`lorajob doctor`: what it finds, what it advises, and when it fails."""

import json
import subprocess
from pathlib import Path

import pytest

from lorajob.cli import doctor_checks, service_checks
from lorajob.whisper.cuda_libraries import load_cuda_libraries
from lorajob.worker.connect import connect
from lorajob.worker.machine.gpus import Gpu
from lorajob.worker.settings import Settings
from lorajob.worker.stack.redis_server import find_server
from tests.support.command import environment, run, url_of
from tests.support.ports import free_port


def test_a_machine_without_a_service_passes_with_a_warning(tmp_path: Path) -> None:
    done = run("doctor", env=environment(home=tmp_path))
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    for words in ("ok   versions", "ok   decoding", "mp3", "disk", "warn redis", "lorajob up"):
        assert words in done.stdout


def test_a_running_redis_and_its_missing_workers_are_reported(
    redis_server: Settings, tmp_path: Path
) -> None:
    with connect(redis_server) as client:
        client.flushall()
    env = environment(home=tmp_path, redis_url=url_of(redis_server))
    done = run("doctor", "--json", env=env)
    assert done.returncode == 0
    findings = json.loads(done.stdout)
    assert all({"name", "state", "text", "advice"} == finding.keys() for finding in findings)
    states = [(finding["name"], finding["state"]) for finding in findings]
    assert ("redis", "ok") in states
    assert states.count(("workers", "warn")) == 2
    assert all(finding["advice"] for finding in findings if finding["state"] != "ok")
    password = url_of(redis_server).split(":")[2].split("@")[0]
    assert password not in done.stdout


def test_a_redis_that_is_named_but_does_not_answer_is_a_failure(tmp_path: Path) -> None:
    url = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    done = run("doctor", env=environment(home=tmp_path, redis_url=url))
    assert done.returncode == 1
    assert "fail redis" in done.stdout
    assert "LORAJOB_REDIS_URL" in done.stdout
    assert "hidden" not in done.stdout


def test_a_redis_that_forgets_or_evicts_is_warned_about(redis_server: Settings) -> None:
    with connect(redis_server) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        try:
            findings = list(service_checks.check_service(redis_server))
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
    warnings = " ".join(finding.text for finding in findings if finding.state == "warn")
    assert "allkeys-lru" in warnings
    assert "append-only" in warnings


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert doctor_checks.check_disk(file / "jobs").state == "fail"
    assert doctor_checks.check_disk(tmp_path / "not" / "yet" / "there").state in ("ok", "warn")


def test_a_full_disk_is_a_failure_and_a_nearly_full_one_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_checks, "NO_DISK_BYTES", 10**18)
    assert doctor_checks.check_disk(tmp_path).state == "ok"
    monkeypatch.setattr(doctor_checks, "LOW_DISK_BYTES", 10**18)
    assert doctor_checks.check_disk(tmp_path).state == "fail"
    monkeypatch.setattr(doctor_checks, "NO_DISK_BYTES", 0)
    assert doctor_checks.check_disk(tmp_path).state == "warn"


def test_a_small_gpu_is_warned_about_and_a_large_one_is_not() -> None:
    small = Gpu("0", "GPU-a", "Small", 6144, 5800)
    large = Gpu("1", "GPU-b", "Large", 24576, 24000)
    first, second = service_checks.check_gpus([small, large])
    assert (first.state, second.state) == ("warn", "ok")
    assert "4bit" in first.advice
    assert "24000 of 24576 MiB" in second.text


def test_corpora_that_are_not_there_are_warned_about(tmp_path: Path) -> None:
    (missing,) = doctor_checks.check_corpora(tmp_path / "nowhere")
    assert missing.state == "warn"
    (there,) = doctor_checks.check_corpora(tmp_path)
    assert there.state == "ok"
    assert list(doctor_checks.check_corpora(None)) == []


def test_a_package_that_is_too_old_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["click>=99", "no-such-package>=1"]
    )
    finding = doctor_checks.check_versions()
    assert finding.state == "fail"
    assert "click>=99 is needed" in finding.text
    assert "no-such-package>=1 is missing" in finding.text


def test_a_store_is_tried(bucket: str, tmp_path: Path) -> None:
    done = run("doctor", env=environment(home=tmp_path, artifacts=f"{bucket}/doctor"))
    assert "ok   store" in done.stdout and f"{bucket}/doctor can be written" in done.stdout
    env = environment(home=tmp_path, artifacts=f"{bucket}/doctor")
    denied = run("doctor", env=env | {"AWS_SECRET_ACCESS_KEY": "another"})
    assert denied.returncode == 1
    assert "fail store" in denied.stdout and "another" not in denied.stdout


def test_a_redis_cluster_is_named_as_unsupported(tmp_path: Path) -> None:
    # The bus of a cluster listens on this port + 10000.
    port = next(it for it in iter(free_port, None) if it + 10_000 < 65_536)
    words = f"port {port}\ncluster-enabled yes\nbind 127.0.0.1\ndir {tmp_path}\n"
    env = environment(redis_url=f"redis://127.0.0.1:{port}/0", home=tmp_path / "home")
    with subprocess.Popen(
        [find_server(), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdin is not None and server.stdout is not None
            server.stdin.write(words)
            server.stdin.close()
            assert any("Ready to accept" in line for line in server.stdout)
            found = json.loads(run("doctor", "--json", env=env).stdout)
            told = run("status", env=env)
        finally:
            server.kill()
    (redis,) = [it for it in found if it["name"] == "redis"]
    assert (
        redis["state"] == "fail" and "is a Redis Cluster, which is not supported" in redis["text"]
    )
    assert told.returncode == 1 and told.stderr == (
        f"lorajob: Redis at redis://127.0.0.1:{port}/0 is a Redis Cluster, which is not supported; "
        "use a single Redis, or Sentinels\n"
    )


def test_libraries_that_ctranslate2_lacks_on_a_gpu_are_named(tmp_path) -> None:
    tried = []

    def load(path: str) -> object:
        tried.append(path)
        if path != f"{tmp_path}/nvidia/cublas/lib/libcublas.so.12":
            raise OSError("cannot open shared object file")
        return object()

    assert load_cuda_libraries([str(tmp_path / "a"), str(tmp_path)], load) == ["libcudnn.so.9"]
    # The system's own comes first.
    assert [Path(path).parts[0] for path in tried].count("libcublas.so.12") == 1
    assert tried[0] == "libcublas.so.12"
