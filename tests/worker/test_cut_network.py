"""A machine whose network is cut while it trains: hosts in namespaces, a bridge between them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.worker.artifacts.job_store import JobStore
from lorajob.worker.heartbeats import living
from tests.support.far import Far, new_job
from tests.support.fleet import Fleet, Worker, end_tree
from tests.support.network import Host, hosts
from tests.support.object_store import object_store
from tests.support.procs import command_line
from tests.support.service import wait_for


@pytest.fixture
def machines(tiny_whisper: Path, tmp_path: Path) -> Iterator[tuple[Far, list[Host]]]:
    """Redis and an object store on this machine, and two hosts that reach them by cable alone."""
    (tmp_path / "objects").mkdir()
    with hosts(2) as (address, made), object_store(tmp_path / "objects", address) as bucket:
        far = Far(tmp_path, f"{bucket}/cut", tiny_whisper, address)
        try:
            far.hub.start_redis()
            yield far, made
        finally:
            far.close()


def training(worker: Worker) -> bool:
    return any("lorajob.stage train" in command_line(pid) for pid in worker.tree())


def shown(machine: Fleet) -> int:
    """How many gpu workers Redis has heard of lately."""
    return len(living(machine.redis, "gpu"))


def test_a_cut_network_counts_as_a_lost_worker_and_nothing_is_lost(
    machines: tuple[Far, list[Host]], expected: bytes, tmp_path: Path
) -> None:
    far, (near, other) = machines
    first, second = far.machine("first", near.prefix), far.machine("second", other.prefix)
    gpu = first.start_worker("gpu")
    first.start_worker("cpu")
    record = new_job(far, first, "hi-cut")
    stored = JobStore(record.folder, tmp_path / "reader")
    first.train_to(record, 25)
    wait_for(lambda: stored.checkpoints() and stored.checkpoints()[-1][1] >= 20, 90)
    near.cut()
    second.start_worker("gpu")
    second.start_worker("cpu")
    done = second.wait_until(record, "succeeded", 120)
    assert done.stages["train"].attempts == 2
    wait_for(lambda: not training(gpu), 60)  # by itself: it cannot be told
    stored.fetch_stage("train", done.stages["train"].attempt)
    path = stored.job.stage_dir("train") / "adapter" / "adapter_model.safetensors"
    assert path.read_bytes() == expected

    for worker in second.workers:
        end_tree(worker)
    wait_for(lambda: shown(second) == 0)
    near.mend()
    wait_for(lambda: shown(second) == 1, 60)
    following = new_job(far, first, "hi-mended", "train.epochs=1")
    after = first.wait_until(following, "succeeded", 120)
    assert after.stages["train"].attempts == 1
    assert first.load(record) == done
