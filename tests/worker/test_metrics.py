"""`lorajob metrics`: what it tells, to whom, at what cost; and the files that go with it."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from lorajob.job.jobdir import STAGES
from lorajob.job.results import StageResult
from lorajob.tasks.broker import send
from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.monitoring import tallies
from lorajob.worker.monitoring.gpu_load import (
    PERIOD_SECONDS,
    GpuWatch,
    gpu_loads,
    loads_of,
    parse_loads,
)
from lorajob.worker.queues import MEMORY_CLASSES_GB
from lorajob.worker.records.record import StageRecord
from lorajob.worker.records.records import Claim, Records
from tests.support.command import environment, finished, job_record, succeeded_record, url_of
from tests.support.ports import free_port
from tests.support.scrape import fetch, samples, serving, until, value
from tests.support.service import new_job, settings_for, wait_for
from tests.support.watched import workers

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/lorajob.json").read_text("utf-8"))
PASSWORD = "metrics-secret-of-the-tests"
SMI = """0, GPU-aaa, NVIDIA A100-SXM4-80GB, 30721, 81920, 97
1, GPU-bbb, NVIDIA A100-SXM4-80GB, 4, 81920, 0
2, GPU-ccc, NVIDIA A100-SXM4-80GB, 12, 81920, [N/A]
3, GPU-ddd, NVIDIA GH200, [N/A], [N/A], 3
"""


@pytest.fixture
def records(redis) -> Records:
    return Records(redis)


@pytest.fixture
def exporter(redis_server, monkeypatch) -> Iterator[str]:
    """The url of an exporter's own process, which answers from fresh numbers each time."""
    with serving(environment(redis_url=url_of(redis_server))) as url:
        yield url


def training(progress: dict[str, float]) -> StageRecord:
    return StageRecord(
        state="running", attempts=1, attempt=1, owner="o", worker="gpu@a", lease=time.time() + 90,
        started_at=time.time(), progress=progress,
    )  # fmt: skip


def test_one_endpoint_tells_of_every_job(exporter, records, redis, tmp_path):
    records.create(job_record(tmp_path, "hi-00000001"))
    records.create(job_record(tmp_path, "mr-00000002", language="mr"))
    progress = {"step": 30, "total": 180, "loss": 1.75, "eta_seconds": 75.0}
    progress["tokens_per_second"] = 900.0
    stages = finished("preprocess") | {"train": training(progress)}
    records.create(job_record(tmp_path, "hi-00000003", state="running", stages=stages))
    records.create(succeeded_record(tmp_path, "hi-00000004"))
    redis.zadd("lorajob:workers:gpu", {"gpu-1@a": time.time() + 600})
    found = samples(fetch(exporter))
    assert value(found, "lorajob_redis_up") == 1
    assert value(found, "lorajob_jobs", state="queued", language="hi") == 1
    assert value(found, "lorajob_jobs", state="queued", language="mr") == 1
    assert value(found, "lorajob_jobs", state="running", language="hi") == 1
    assert value(found, "lorajob_jobs", state="succeeded", language="hi") == 1
    assert value(found, "lorajob_queue_jobs", queue="cpu", state="queued", memory_gb="0") == 2
    assert value(found, "lorajob_queue_jobs", queue="cpu", state="running", memory_gb="0") == 0
    assert value(found, "lorajob_queue_jobs", queue="gpu", state="running", memory_gb="0") == 1
    assert value(found, "lorajob_workers", queue="gpu") == 1
    assert value(found, "lorajob_wer_percent", language="hi", model="base") == 207.31
    assert value(found, "lorajob_wer_percent", language="hi", model="tuned") == 52.04
    job = {"job_id": "hi-00000003", "language": "hi", "stage": "train"}
    assert value(found, "lorajob_train_loss", **job) == 1.75
    assert value(found, "lorajob_train_steps_per_second", **job) == 2.0
    assert value(found, "lorajob_train_tokens_per_second", **job) == 900.0
    assert value(found, "lorajob_stage_step", **job) == 30
    assert value(found, "lorajob_stage_steps", **job) == 180
    assert value(found, "lorajob_stage_eta_seconds", **job) == 75.0
    taken = {"job", "instance"}  # labels that Prometheus gives a scrape
    assert not [name for name, labels in found if taken & dict(labels).keys()]


def test_what_waits_for_a_card_is_counted_by_the_memory_it_needs(exporter, records, tmp_path):
    for number, size in enumerate((12, 12, 80, None)):
        stages = finished("preprocess") | {"train": StageRecord(state="queued")}
        job = job_record(tmp_path, f"hi-{number:08x}", memory_class=size, stages=stages)
        records.create(job)
    records.create(job_record(tmp_path, "hi-0000000a", memory_class=12))  # its cpu stage needs none
    assert isinstance(records.claim("hi-00000001", "train", "gpu@a", 90, 3), Claim)
    found = until(exporter, "lorajob_queue_jobs", 1, queue="cpu", state="queued", memory_gb="0")
    counts = {
        (size, state): value(
            found, "lorajob_queue_jobs", queue="gpu", state=state, memory_gb=str(size)
        )
        for size in (0, *MEMORY_CLASSES_GB)
        for state in ("queued", "running")
    }
    ours = {(0, "queued"): 1, (12, "queued"): 1, (12, "running"): 1, (80, "queued"): 1}
    assert counts == dict.fromkeys(counts, 0) | ours


def test_a_scrape_follows_a_job_through_its_life(exporter, records, tmp_path):
    job = job_record(tmp_path, "hi-00000011")
    records.create(job)
    until(exporter, "lorajob_queue_jobs", 1, queue="cpu", state="queued", memory_gb="0")
    claim = records.claim(job.id, "preprocess", "cpu@a", 90, 3)
    assert isinstance(claim, Claim)
    until(exporter, "lorajob_queue_jobs", 1, queue="cpu", state="running", memory_gb="0")
    records.commit(claim, StageResult())
    found = until(exporter, "lorajob_queue_jobs", 1, queue="gpu", state="queued", memory_gb="0")
    assert value(found, "lorajob_queue_jobs", queue="cpu", state="running", memory_gb="0") == 0
    assert value(found, "lorajob_jobs", state="running", language="hi") == 1  # as status says
    claim = records.claim(job.id, "train", "gpu@a", 90, 3)
    assert isinstance(claim, Claim)
    records.fail(claim, "no clip is left")
    until(exporter, "lorajob_jobs", 1, state="failed", language="hi")
    records.retry(job.id)
    until(exporter, "lorajob_queue_jobs", 1, queue="gpu", state="queued", memory_gb="0")
    records.cancel(job.id)
    until(exporter, "lorajob_jobs", 1, state="cancelled", language="hi")
    records.retry(job.id)  # and once more, between two scrapes
    claim = records.claim(job.id, "train", "gpu@a", 90, 3)
    assert isinstance(claim, Claim)
    records.fail(claim, "again")
    found = until(exporter, "lorajob_jobs", 1, state="failed", language="hi")
    assert value(found, "lorajob_jobs", state="cancelled", language="hi") is None
    records.delete(job.id)
    wait_for(lambda: not any(name == "lorajob_jobs" for name, _ in samples(fetch(exporter))))


def test_what_workers_count_becomes_histograms_and_counters(exporter, redis):
    for seconds in (0.5, 15, 15.1, 1e6):
        tallies.waited(redis, "gpu", seconds)
    tallies.attempted(redis, "train", "committed", 100.0)
    tallies.attempted(redis, "train", "shutdown", 5.0)
    tallies.lease_lost(redis)
    tallies.noticed(redis, "slack", "failed")
    found = samples(fetch(exporter))
    buckets = {
        dict(labels)["le"]: count
        for (name, labels), count in found.items()
        if name == "lorajob_queue_wait_seconds_bucket" and ("queue", "gpu") in labels
    }
    assert (buckets["1"], buckets["5"], buckets["15"], buckets["60"]) == (1, 1, 2, 3)
    assert (buckets["43200"], buckets["+Inf"]) == (3, 4)
    assert value(found, "lorajob_queue_wait_seconds_sum", queue="gpu") == 1_000_030.6
    assert value(found, "lorajob_stage_seconds_count", stage="train") == 1
    assert value(found, "lorajob_attempts_total", stage="train", outcome="shutdown") == 1
    assert value(found, "lorajob_leases_lost_total") == 1
    assert value(found, "lorajob_notices_total", channel="slack", outcome="failed") == 1


def test_real_workers_count_waits_stages_and_themselves(service):
    record = service.new_job("hi-00000041")
    service.send(record)
    service.wait_until(record.id, "succeeded")
    with serving(environment(redis_url=service.info.redis_url)) as url:
        # A worker counts an attempt after its end; one that was killed is heard of for a while.
        until(url, "lorajob_workers", 1, queue="cpu")
        until(url, "lorajob_workers", 1, queue="gpu")
        committed = {"stage": "convert", "outcome": "committed"}
        wait_for(lambda: value(samples(fetch(url)), "lorajob_attempts_total", **committed))
        found = samples(fetch(url))
    for stage in STAGES:
        assert (value(found, "lorajob_stage_seconds_count", stage=stage) or 0) >= 1
        assert (value(found, "lorajob_attempts_total", stage=stage, outcome="committed") or 0) >= 1
    for queue in ("cpu", "gpu"):
        assert (value(found, "lorajob_queue_wait_seconds_count", queue=queue) or 0) >= 2


def test_a_redis_that_is_gone_is_a_metric(tmp_path):
    with serving(environment(redis_url=f"redis://127.0.0.1:{free_port()}/0")) as url:
        found = samples(fetch(url))
    assert found == {("lorajob_redis_up", ()): 0.0}


def asked(redis, command: str = "cmdstat_") -> int:
    """How many commands Redis has run whose name in its statistics begins so."""
    stats = redis.info("commandstats")
    return sum(it["calls"] for name, it in stats.items() if name.startswith(command))


def test_ten_thousand_jobs_are_counted_without_reading_them_again(records, redis, redis_server):
    pages = [[f"hi-{n + k:08x}" for k in range(1000)] for n in range(0, 10_000, 1000)]
    for page in pages:
        with redis.pipeline(transaction=False) as pipe:
            for job_id in page:
                template = succeeded_record(Path("/tmp"), "hi-00000000")
                fields = template.model_copy(update={"id": job_id}).to_hash()
                pipe.hset(f"lorajob:job:{job_id}", mapping=fields)
                pipe.zadd("lorajob:jobs", {job_id: 1.0})
            pipe.execute()
    with serving(environment(redis_url=url_of(redis_server))) as url:
        assert (
            value(samples(fetch(url)), "lorajob_jobs", state="succeeded", language="hi") == 10_000
        )
        before, of_all = asked(redis, "cmdstat_hmget"), asked(redis)
        records.create(job_record(Path(redis_server.home), "hi-ffffffff"))
        found = until(url, "lorajob_jobs", 1, state="queued", language="hi")
        assert asked(redis, "cmdstat_hmget") - before <= 3
        # Reading the records again would be a command for each.
        assert asked(redis) - of_all < 1000
        assert value(found, "lorajob_scrape_seconds") > 0


def test_the_passwords_of_the_service_reach_no_other_program(redis_server):
    secrets = {"metrics_password": SecretStr(PASSWORD), "webhook_url": SecretStr("http://h/key")}
    variables = redis_server.model_copy(update=secrets).environment()
    assert not [name for name in variables if "PASSWORD" in name or "URL" in name]


def test_nvidia_smis_answer_is_read(monkeypatch):
    loads = parse_loads(SMI)
    assert [load.uuid for load in loads] == ["GPU-aaa", "GPU-bbb", "GPU-ccc"]
    assert (loads[0].used_mib, loads[0].total_mib, loads[0].percent) == (30721, 81920, 97)
    assert loads[2].percent is None


def fake_smi(folder: Path) -> None:
    """A program that answers as nvidia-smi does, to both questions."""
    path = folder / "nvidia-smi"
    table = "\n".join(f"{n}, GPU-{c * 3}, NVIDIA A100, 81920, 80000" for n, c in enumerate("abc"))
    path.write_text(
        f"#!/bin/sh\ncase \"$1\" in *utilization*) cat <<'E'\n{SMI}E\n;;\n"
        f"*) cat <<'E'\n{table}\nE\n;; esac\n"
    )
    path.chmod(0o755)


def test_a_gpu_workers_load_reaches_the_metrics(exporter, redis, tmp_path, monkeypatch):
    fake_smi(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert [load.index for load in gpu_loads({"GPU-bbb"})] == ["1"]
    watch = GpuWatch(redis, "gpu-1@a").ticker
    watch.start()
    try:
        wait_for(lambda: loads_of(redis, ["gpu-1@a", "gpu-2@a"]))
    finally:
        watch.stop()
    assert 0 < redis.ttl("lorajob:gpu-load:gpu-1@a") > PERIOD_SECONDS
    redis.zadd("lorajob:workers:gpu", {"gpu-1@a": time.time() + 600})
    gpu = {"worker": "gpu-1@a", "gpu": "0", "name": "NVIDIA A100-SXM4-80GB"}
    found = until(exporter, "lorajob_gpu_utilisation_ratio", 0.97, **gpu)
    assert value(found, "lorajob_gpu_memory_used_bytes", **gpu) == 30721 * 1024**2
    assert not any(dict(labels).get("gpu") == "1" for _, labels in found)  # another worker's


def test_workers_of_another_version_do_not_end_the_scrape(exporter, redis):
    load = {"index": "0", "uuid": "GPU-a", "name": "A100", "used_mib": 1, "total_mib": 2}
    texts = [
        json.dumps([load | {"percent": 5, "watts": 300}]),  # a newer one
        json.dumps([load]),  # an older one
        json.dumps([load | {"percent": "5"}]),
        json.dumps([load | {"percent": 5, "index": 0}]),
        json.dumps({"gpus": [load]}),
        "not JSON",
    ]
    for number, text in enumerate(texts):
        redis.set(f"lorajob:gpu-load:gpu-{number}@a", text)
        redis.zadd("lorajob:workers:gpu", {f"gpu-{number}@a": time.time() + 600})
    found = until(exporter, "lorajob_workers", len(texts), queue="gpu")
    told = {labels for name, labels in found if name == "lorajob_gpu_utilisation_ratio"}
    assert [dict(labels)["worker"] for labels in told] == ["gpu-0@a"]


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


def test_the_dashboard_uses_only_what_the_exporter_emits(exporter, records, redis, tmp_path):
    """And all of it: a metric that no panel shows is one that nobody looks at."""
    test_one_endpoint_tells_of_every_job(exporter, records, redis, tmp_path)
    found = set(re.findall(r"^# TYPE (\w+) (\w+)", fetch(exporter), re.MULTILINE))
    emitted = {name for name, kind in found if kind != "histogram"}
    for name in [name for name, kind in found if kind == "histogram"]:
        emitted |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    used = set(re.findall(r"\blorajob_\w+", " ".join(expressions())))
    assert used <= emitted
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in emitted - used} <= {
        "lorajob_stage_seconds"
    }


def test_attempts_at_a_job_in_a_store_count_as_waits_and_not_as_lost_leases(redis_server, tmp_path):
    settings = settings_for(tmp_path, url_of(redis_server))
    settings = settings.model_copy(update={"artifacts": f"file://{tmp_path}/store"})
    with workers(settings) as redis:
        records = Records(redis)
        made = new_job(settings, records, "hi-00000061", STAGES)
        stored = JobStore(f"{settings.store_url}/{made.id}", settings.workplace)
        stored.store.upload(stored.job.spec_path, "spec.json")
        for stage in STAGES:
            stored.push(stage, 0)
        records.delete(made.id)
        record = made.model_copy(update={"folder": stored.store.url})
        records.create(record)
        send(record, settings)
        wait_for(lambda: records.load(made.id).state == "succeeded", 60)
        waits = tallies.read_histograms(redis.hgetall(tallies.WAITS))
        assert {queue: sum(found.counts.values()) for queue, found in waits.items()} == {
            "cpu": 2, "gpu": 2
        }  # fmt: skip
        assert not redis.hgetall(tallies.LEASES)
