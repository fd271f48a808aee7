"""The GPUs of this machine, read from nvidia-smi so that torch need not be imported.

Also runs programs on them. A process that is blocked in the driver survives a kill, so nothing here
waits for the end of such a process without a limit.
"""

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lorajob.errors import ServiceError, UsageError

QUERY = "--query-gpu=index,uuid,name,memory.total,memory.free"
PLAIN = ("--format=csv,noheader,nounits",)
TIMEOUT_SECONDS = 20
KILL_SECONDS = 1.0  # how long to wait for a killed process
LOOK_SECONDS = 0.5  # between two looks at `stopped`
MIB_PER_GB = 1e9 / 2**20  # cards are sold in GB: a card of 24 GB reports 23,034 MiB
CARD_LINE = re.compile(r"GPU (?P<index>\d+): (?P<name>.*) \(UUID: (?P<id>[\w-]+)\)")
PART_LINE = re.compile(r"\s+MIG (?P<name>\S+)\s+Device\s+\d+: \(UUID: (?P<id>MIG-[\w/-]+)\)")
PART_GB = re.compile(r"\.(\d+)gb")  # 3g.20gb

hung: list[subprocess.Popen[str]] = []  # killed, but still blocked in the driver
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """One visible device; memory in MiB."""

    index: str
    uuid: str
    name: str
    total_mib: int
    free_mib: int


@dataclass(frozen=True)
class Pin:
    """The device of one worker: a card, a part of one (MIG), or all that is visible.

    `visible` is the worker's CUDA_VISIBLE_DEVICES; None leaves the variable unchanged. The memory
    is in GB; None means unknown.
    """

    visible: str | None = None
    memory_gb: float | None = None
    index: str = ""  # nvidia-smi's number of the card

    def environment(self) -> dict[str, str]:
        """The variables that it adds to the environment of its worker."""
        order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # number cards as nvidia-smi does
        return order if self.visible is None else order | {"CUDA_VISIBLE_DEVICES": self.visible}


def pins(asked: str) -> list[Pin]:
    """One pin for each worker that `--gpus` asks for.

    `auto` is one worker for each visible device, or one without a pin if there is none; `all` is
    one worker that trains each job on all devices; `none` is the CPU. Otherwise `asked` lists
    numbers and UUIDs of visible devices. A card that is divided counts as its parts. Raises
    UsageError, and ServiceError if nvidia-smi is installed and does not answer.
    """
    if asked == "none":
        return [Pin(visible="")]
    found = devices()
    if asked == "all" and not found:
        raise UsageError(
            "gpus: all: no GPU is visible here (see `nvidia-smi`); `--gpus auto` then takes the CPU"
        )
    if asked == "all":
        sizes = [pin.memory_gb for pin in found if pin.memory_gb is not None]
        return [Pin(memory_gb=min(sizes, default=None))]
    if asked == "auto":
        if not found and "CUDA_VISIBLE_DEVICES" not in os.environ and shutil.which("nvidia-smi"):
            logger.warning("nvidia-smi lists no GPU: this worker computes on the CPU")
        return found or [Pin()]
    chosen: list[Pin] = []
    for name in (part.strip() for part in asked.split(",")):
        named = _named(found, name)
        if not named:
            known = ", ".join(f"{pin.index} ({pin.visible})" for pin in found)
            if not known:
                raise UsageError(
                    f"gpus: {name!r} is unknown; no GPU is visible here (see `nvidia-smi`); "
                    "allowed: auto, none"
                )
            raise UsageError(f"gpus: {name!r} is unknown; allowed: auto, all, none, or of {known}")
        chosen += [pin for pin in named if pin not in chosen]
    return chosen


def devices() -> list[Pin]:
    """The cards, or their parts, that CUDA_VISIBLE_DEVICES allows; [] without a driver."""
    memory = {
        gpu.uuid: gpu.total_mib / MIB_PER_GB for gpu in parse_gpus(ask_nvidia_smi(QUERY, *PLAIN))
    }
    found = parse_list(ask_nvidia_smi("-L"), memory)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    left: list[Pin] = []
    for name in (part.strip() for part in visible.split(",")):
        named = _named(found, name)
        if not named:
            break
        left += [pin for pin in named if pin not in left]
    return left


def parse_list(listing: str, memory_gb: dict[str, float]) -> list[Pin]:
    """Parse the output of `nvidia-smi -L`.

    A divided card is replaced by its parts, whose memory follows from the name of their profile.
    """
    found: list[Pin] = []
    for line in listing.splitlines():
        if card := CARD_LINE.match(line):
            found.append(Pin(card["id"], memory_gb.get(card["id"]), card["index"]))
        elif (part := PART_LINE.match(line)) and found:
            whole = found[-1]
            if not (whole.visible or "").startswith("MIG-"):
                found.pop()
            size = PART_GB.search(part["name"])
            found.append(Pin(part["id"], float(size[1]) if size else None, whole.index))
    return found


def _named(found: list[Pin], name: str) -> list[Pin]:
    """The devices of a number, or the first whose UUID starts with `name`."""
    if name.startswith(("GPU-", "MIG-")):
        return [pin for pin in found if (pin.visible or "").startswith(name)][:1]
    return [pin for pin in found if pin.index == name]


def visible_gpus() -> list[Gpu]:
    """The devices that CUDA_VISIBLE_DEVICES allows, in its order; [] without a driver."""
    return _chosen(
        parse_gpus(ask_nvidia_smi(QUERY, *PLAIN)), os.environ.get("CUDA_VISIBLE_DEVICES")
    )


def ask_nvidia_smi(*options: str) -> str:
    """The output of nvidia-smi; empty if it is not installed or CUDA_VISIBLE_DEVICES is empty.

    Its exit code is ignored: if one card has failed, nvidia-smi ends with an error but lists the
    others. Raises ServiceError if it cannot be run or takes too long, as with a driver that hangs.
    While a process of it hangs, no other is started.
    """
    command = shutil.which("nvidia-smi")
    if command is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return ""
    if any(process.poll() is None for process in hung):
        raise _silent()
    hung.clear()
    try:
        process = subprocess.Popen(
            [command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError as error:
        raise ServiceError(f"nvidia-smi cannot be run: {error}") from None
    try:
        return process.communicate(timeout=TIMEOUT_SECONDS)[0]
    except subprocess.TimeoutExpired:
        _leave(process)
        raise _silent() from None


def _leave(process: subprocess.Popen[str]) -> None:
    """Kill the process, and do not wait for one that is blocked in the driver.

    `subprocess.run` would wait for it for ever.
    """
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    try:
        process.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        hung.append(process)


class Done(NamedTuple):
    """What a program on a GPU has written, and how it ended.

    `code` is its exit code; None if it is left in the driver. `late` if it took too long.
    """

    code: int | None
    output: str
    errors: str
    late: bool


def run_on_gpu(
    command: Sequence[str], seconds: float, stopped: Callable[[], bool] = lambda: False
) -> Done:
    """Run a program. It is killed after `seconds`, or if `stopped` becomes true. Raises OSError."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ends = time.monotonic() + seconds
    late = False
    while not late and not stopped():
        try:
            return _done(process, process.communicate(timeout=LOOK_SECONDS), late)
        except subprocess.TimeoutExpired:
            late = time.monotonic() > ends
    process.kill()
    try:
        return _done(process, process.communicate(timeout=KILL_SECONDS), late)
    except subprocess.TimeoutExpired as error:
        return _done(process, (error.output, error.stderr), late)


def _done(
    process: subprocess.Popen[bytes], written: tuple[bytes | None, bytes | None], late: bool
) -> Done:
    output, errors = ((it or b"").decode("utf-8", "replace") for it in written)
    return Done(process.returncode, output, errors, late)


def _silent() -> ServiceError:
    return ServiceError(
        f"nvidia-smi does not answer within {TIMEOUT_SECONDS} s; run it by hand, and start the"
        " persistence daemon or repair the driver (an empty CUDA_VISIBLE_DEVICES is the CPU)"
    )


def parse_gpus(table: str) -> list[Gpu]:
    """Parse nvidia-smi's lines. A device that does not report its memory is left out."""
    gpus = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 5 and fields[3].isdigit() and fields[4].isdigit():
            index, uuid, name, total, free = fields
            gpus.append(Gpu(index, uuid, name, int(total), int(free)))
    return gpus


def _chosen(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """The devices of CUDA_VISIBLE_DEVICES, by CUDA's rule.

    It lists numbers or starts of UUIDs, and ends at the first that names no device.
    """
    if visible is None:
        return gpus
    chosen = []
    for name in (part.strip() for part in visible.split(",")):
        found = [gpu for gpu in gpus if name and (gpu.index == name or gpu.uuid.startswith(name))]
        if not found:
            break
        chosen.append(found[0])
    return chosen
