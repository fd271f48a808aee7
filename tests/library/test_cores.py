"""A stage's share of the CPU."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lorajob import cores
from lorajob.job.jobdir import JobDir
from tests.support.tiny import make_job

SETS = ("train.epochs=1", "train.batch_clips=1", "train.rank=4")


def group(root: Path, name: str, **files: str) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file.replace("_", ".", 1)).write_text(text)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("400000 100000", 3)],
)
def test_the_quota_of_every_control_group_above_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    group(tmp_path / "cgroup", "pod", cpu_max="300000 100000" if quota[0] == "4" else "max 100000")
    group(tmp_path / "cgroup", "pod/worker", cpu_max=quota)
    own = tmp_path / "own"
    own.write_text("0::/pod/worker\n")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores.usable_cores() == expected


def test_control_groups_of_version_1_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cgroup" / "cpu,cpuacct" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    own = tmp_path / "own"
    own.write_text("5:memory:/docker\n4:cpu,cpuacct:/docker\n")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", own)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores.usable_cores() == 3


def test_available_memory_is_what_the_machine_and_every_control_group_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo, own = tmp_path / "meminfo", tmp_path / "own"
    own.write_text("0::/pod/worker\n")
    monkeypatch.setattr(cores, "MEMORY", meminfo)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUP", own)
    assert cores.available_memory() is None
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\n")
    assert cores.available_memory() == 8000 * 1024
    # Cached files do not count as used.
    used = {"memory_current": "5000\n", "memory_stat": "anon 1\ninactive_file 2000\n"}
    group(tmp_path / "cgroup", "pod", memory_max="9000\n", **used)
    group(tmp_path / "cgroup", "pod/worker", memory_max="max\n", **used)
    assert cores.available_memory() == 6000
    (tmp_path / "cgroup/pod/worker/memory.max").write_text("3000\n")
    assert cores.available_memory() == 1
    older = tmp_path / "cgroup" / "memory" / "docker"
    older.mkdir(parents=True)
    own.write_text("4:memory:/docker\n")
    (older / "memory.limit_in_bytes").write_text("7000\n")
    (older / "memory.usage_in_bytes").write_text("3000\n")
    (older / "memory.stat").write_text("total_inactive_file 500\n")
    assert cores.available_memory() == 4500


def test_stages_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 16)
    for stages, threads in (("", 16), ("4", 4), ("40", 1), ("none", 16)):
        monkeypatch.setenv(cores.STAGES_HERE, stages)
        given: dict[str, str] = {}
        cores.share_cpu(given)
        assert given["OMP_NUM_THREADS"] == str(threads)
        assert given["GOMP_SPINCOUNT"] == "0"
    own = {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "100"}
    cores.share_cpu(own)
    assert (own["OMP_NUM_THREADS"], own["GOMP_SPINCOUNT"]) == ("3", "100")


def test_the_processes_and_stages_of_one_machine_share_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "available_memory", lambda: 1200)
    for here, stages, memory in (("", "", 400), ("2", "", 600), ("", "2", 200), ("2", "3", 200)):
        monkeypatch.setenv(cores.PROCESSES_HERE, here)
        monkeypatch.setenv(cores.STAGES_HERE, stages)
        assert cores.memory_share(3) == memory
    monkeypatch.setattr(cores, "available_memory", lambda: None)
    assert cores.memory_share(3) is None


def cpu_seconds(jobs: list[JobDir]) -> float:
    """What training all of them beside each other takes, all processes together."""
    env = {name: value for name, value in os.environ.items() if name not in cores.PASSIVE}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "lorajob.stage", "train"]
    stages = [
        subprocess.Popen([*command, str(job.root)], env=env, stdout=subprocess.DEVNULL)
        for job in jobs
    ]
    assert [stage.wait(timeout=400) for stage in stages] == [0] * len(jobs)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_two_trainings_beside_each_other_do_not_take_each_others_cores(
    whisper_base: Path, tmp_path: Path
) -> None:
    jobs = [make_job(tmp_path / str(n), whisper_base, *SETS, clips=8) for n in range(3)]
    alone = cpu_seconds(jobs[:1])
    together = cpu_seconds(jobs[1:])
    assert together < 2 * 2 * alone  # by spinning they took twelve times as long
