"""Which GPUs this machine offers, asked of nvidia-smi so that nothing loads torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass

QUERY = "--query-gpu=index,uuid,name,memory.total,memory.free"
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """One visible device; memory in MiB."""

    index: str
    uuid: str
    name: str
    total_mib: int
    free_mib: int


def visible_gpus() -> list[Gpu]:
    """The devices that CUDA_VISIBLE_DEVICES leaves, in nvidia-smi's order; [] without a driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        answer = subprocess.run(
            [command, QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return _chosen(parse(answer.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse(table: str) -> list[Gpu]:
    """Read nvidia-smi's lines; a device that does not tell its memory is left out."""
    gpus = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[3].isdigit() and fields[4].isdigit():
            index, uuid, name, total, free = fields
            gpus.append(Gpu(index, uuid, name, int(total), int(free)))
    return gpus


def _chosen(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """CUDA's rule: numbers or starts of UUIDs, ending at the first that names no device."""
    if visible is None:
        return gpus
    chosen = []
    for name in (part.strip() for part in visible.split(",")):
        found = [gpu for gpu in gpus if name and (gpu.index == name or gpu.uuid.startswith(name))]
        if not found:
            break
        chosen.append(found[0])
    return chosen
