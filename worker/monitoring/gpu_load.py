"""The load of a worker's GPUs, read from nvidia-smi and written to Redis."""

import json
import logging
from dataclasses import asdict, dataclass, fields
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from lorajob.errors import ServiceError
from lorajob.worker.machine.gpus import PLAIN, ask_nvidia_smi, visible_gpus
from lorajob.worker.ticker import Ticker

QUERY = "--query-gpu=index,uuid,name,memory.used,memory.total,utilization.gpu"
PERIOD_SECONDS = 10.0
KEEP_SECONDS = 45  # a load expires after this time without an update

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuLoad:
    """One device at one time. Memory is in MiB, utilisation in percent (None if unknown)."""

    index: str
    uuid: str
    name: str
    used_mib: int
    total_mib: int
    percent: int | None


def gpu_loads(uuids: set[str]) -> list[GpuLoad]:
    """The load of these devices. Raises ServiceError if nvidia-smi does not answer."""
    if not uuids:
        return []
    return [load for load in parse_loads(ask_nvidia_smi(QUERY, *PLAIN)) if load.uuid in uuids]


def parse_loads(table: str) -> list[GpuLoad]:
    """Parse nvidia-smi's lines. A device that does not report its memory is left out."""
    loads = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 6 and fields[3].isdigit() and fields[4].isdigit():
            percent = int(fields[5]) if fields[5].isdigit() else None
            index, uuid, name, used, total, _ = fields
            loads.append(GpuLoad(index, uuid, name, int(used), int(total), percent))
    return loads


def loads_of(redis: Redis, workers: list[str]) -> dict[str, list[GpuLoad]]:
    """The latest loads of these workers, by their names.

    Workers that reported nothing are left out. The list is empty if a worker of another version
    wrote another format.
    """
    if not workers:
        return {}
    texts = cast("list[str | None]", redis.mget([_load_key(name) for name in workers]))
    return {
        name: _told(name, text)
        for name, text in zip(workers, texts, strict=True)
        if text is not None
    }


def _told(worker: str, text: str) -> list[GpuLoad]:
    names = [field.name for field in fields(GpuLoad)]
    try:
        loads = [GpuLoad(**{name: load[name] for name in names}) for load in json.loads(text)]
        for load in loads:
            numbers = load.used_mib, load.total_mib, load.percent or 0
            if not all(isinstance(number, int | float) for number in numbers):
                raise TypeError(load)
            if not isinstance(load.index, str) or not isinstance(load.name, str):
                raise TypeError(load)
    except (ValueError, TypeError, LookupError) as error:
        logger.info("%s reports its GPUs' load in an unknown format: %r", worker, error)
        return []
    return loads


class GpuWatch:
    """Reports the load of a worker's GPUs, in a thread of its own.

    nvidia-smi may be slow, and the heartbeat must not wait for it.
    """

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis = redis
        self._name = name
        self._uuids: set[str] | None = None
        # Nothing waits for its end, since its last report expires.
        self.ticker = Ticker("gpu-load", PERIOD_SECONDS, self.turn)

    def turn(self) -> bool:
        """Report the load once; False if there are no GPUs."""
        try:
            if self._uuids is None:
                self._uuids = {gpu.uuid for gpu in visible_gpus()}
            if not self._uuids:
                return False
            loads = json.dumps([asdict(load) for load in gpu_loads(self._uuids)])
            self._redis.set(_load_key(self._name), loads, ex=KEEP_SECONDS)
        except (RedisError, ServiceError) as error:
            logger.info("the GPUs' load was not reported: %s", error)
        return True


def _load_key(worker: str) -> str:
    return f"lorajob:gpu-load:{worker}"
