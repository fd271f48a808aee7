"""A stage's share of this machine: its threads, how they wait, and the memory that is left."""

import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

PROCESSES_HERE = "LOCAL_WORLD_SIZE"  # of one training, by torch's launcher
STAGES_HERE = "LORAJOB_STAGES_HERE"  # how many stages run on this machine at the same time
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# By default, waiting OpenMP threads spin (both GNU's and Intel's OpenMP). If another program runs
# beside them, they take the core from the thread that they wait for. Two trainings on two cores
# took twelve times as long as one (bench/RESULTS.md, "Neighbours").
PASSIVE = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")
# Files of a control group in versions 2 and 1: its limit, its use, and the name in memory.stat of
# cached files that the kernel drops first.
GROUP_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def usable_cores() -> int:
    """Number of cores that this process may use, at least one.

    It is the smallest of its CPU affinity and the quotas of its control groups, rounded up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [-(-quota // 1) for quota in _quotas(CGROUPS, OWN_CGROUP)]
    return max(1, min([allowed or 1, *map(int, quotas)]))


def _quotas(root: Path, own: Path) -> Iterable[float]:
    """Quotas, in cores, of the control groups of this process."""
    return (quota for it in _groups(root, own, "cpu") if (quota := _quota(it)) is not None)


def _groups(root: Path, own: Path, controller: str) -> Iterator[Path]:
    """The control groups of this process, of versions 1 and 2."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = root
        elif controller in controllers.split(","):
            base = root / controllers
        else:
            continue
        group = base / path.lstrip("/")
        while True:
            yield group
            if group == base or base not in group.parents:
                break
            group = group.parent


def _quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text("utf-8").split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text("utf-8").strip()
            period = (group / "cpu.cfs_period_us").read_text("utf-8").strip()
        return float(quota) / float(period) if float(quota) > 0 else None
    # No quota is set: the value is "max" or the file is missing.
    except (OSError, ValueError, ZeroDivisionError):
        return None


def available_memory() -> int | None:
    """Bytes that this process can still take; None if the system does not tell.

    It is the smallest of the machine's available memory and what its control groups leave.
    """
    found = list(filter(None, [_machine_memory(), *_group_memory(CGROUPS, OWN_CGROUP)]))
    return min(found, default=None)


def _machine_memory() -> int | None:
    with suppress(OSError, ValueError):
        for line in MEMORY.read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def _group_memory(root: Path, own: Path) -> Iterator[int]:
    """What each control group leaves, at least one byte."""
    for group in _groups(root, own, "memory"):
        for limit, used, cached in GROUP_MEMORY:
            # No limit is set: the value is "max" or the file is missing.
            with suppress(OSError, ValueError):
                left = int((group / limit).read_text()) - int((group / used).read_text())
                for line in (group / "memory.stat").read_text().splitlines():
                    if line.startswith(f"{cached} "):
                        left += int(line.split()[1])
                yield max(1, left)


def threads_a_stage() -> int:
    """Threads of one stage: the usable cores divided by the stages that run here; at least one."""
    return max(1, usable_cores() // stages_here())


def stages_here() -> int:
    """How many stages run on this machine at the same time, at least one."""
    given = os.environ.get(STAGES_HERE, "")
    return max(1, int(given)) if given.isdigit() else 1


def memory_share(processes: int) -> int | None:
    """Bytes that one of `processes` of a stage can take, if all stages here take as many.

    None if the system does not tell. The launcher's variable counts only those on this machine.
    """
    here = os.environ.get(PROCESSES_HERE, "")
    count = max(1, int(here) if here.isdigit() else processes)
    available = available_memory()
    return None if available is None else available // (count * stages_here())


def describe_machine() -> str:
    """Processor, usable cores, memory, and the GPUs that this process has used torch on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = usable_cores()
    parts = [_processor(), f"{cores} core{'s' if cores > 1 else ''}", f"{memory:.0f} GiB memory"]
    torch = sys.modules.get("torch")
    # A stage that did not use CUDA must not start it now, for its name alone.
    if torch is not None and torch.cuda.is_initialized():
        count = torch.cuda.device_count()
        parts += [torch.cuda.get_device_name(number) for number in range(count)]
    return ", ".join(parts)


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def share_cpu(environment: MutableMapping[str, str]) -> None:
    """Set the number of threads and passive waiting in a stage's environment.

    Variables that are already set stay as they are. Call it before the stage loads torch.
    """
    environment.update(cpu_share(environment))


def cpu_share(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that `share_cpu` sets."""
    threads = {}
    if not any(name in environment for name in THREADS):
        threads = dict.fromkeys(THREADS, str(threads_a_stage()))
    return threads | {name: it for name, it in PASSIVE.items() if name not in environment}
