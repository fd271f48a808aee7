"""Checks of `lorajob doctor` on Redis, workers, memory and GPUs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from redis import Redis
from redis.exceptions import NoPermissionError

from lorajob.cli.doctor_checks import GIB, Finding
from lorajob.client.models import REPAIR
from lorajob.errors import ServiceError, UsageError
from lorajob.worker.connect import NO_CLUSTER, connect, redis_url, service_errors, shown
from lorajob.worker.health import unfit_workers
from lorajob.worker.heartbeats import HERE, Version, living, mixture
from lorajob.worker.heartbeats import versions as found_versions
from lorajob.worker.machine.decoder_check import REMEDY, DecoderCheck, check_decoders
from lorajob.worker.machine.gpus import Gpu, visible_gpus
from lorajob.worker.queues import KINDS
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.stack.info import is_up
from lorajob.worker.stack.redis_server import OLDEST, find_server, server_version

LOW_MEMORY_BYTES = 4 * GIB  # training whisper-base on a CPU takes about 3 GiB
LOW_GPU_MIB = 8 * 1024  # training large-v2 in 8 bit takes just under 8 GiB


def check_memory() -> Finding:
    """Report processors and available main memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return Finding("memory", "ok", f"{cores} processors; memory unknown here")
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    available, total = fields["MemAvailable"], fields["MemTotal"]
    text = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available, {cores} processors"
    if available < LOW_MEMORY_BYTES:
        advice = "close other programs, or start from a smaller base model"
        return Finding("memory", "warn", text, advice)
    return Finding("memory", "ok", text)


def check_gpus(gpus: list[Gpu] | None = None) -> Iterator[Finding]:
    """Report each GPU and its memory. Without a GPU training works, but is slow."""
    try:
        gpus = visible_gpus() if gpus is None else gpus
    except ServiceError as error:
        yield Finding(
            "gpu", "fail", str(error), "workers of the gpu queue start here once this is fixed"
        )
        return
    if not gpus:
        yield Finding(
            "gpu",
            "warn",
            "none that nvidia-smi and CUDA_VISIBLE_DEVICES show",
            "enough to try whisper-base; else run `lorajob worker --queue gpu` on a machine "
            "with a GPU",
        )
    for gpu in gpus:
        text = f"{gpu.index}: {gpu.name}, {gpu.free_mib} of {gpu.total_mib} MiB free"
        if gpu.free_mib >= LOW_GPU_MIB:
            yield Finding("gpu", "ok", text)
            continue
        advice = "free some; else use small base models, or --set train.quantization=4bit"
        yield Finding("gpu", "warn", text, advice)


def check_decoder(
    gpus: list[Gpu] | None = None, check: Callable[[], list[DecoderCheck]] = check_decoders
) -> Iterator[Finding]:
    """On a machine with a GPU, check that CTranslate2 decodes on each of them."""
    try:
        if not (visible_gpus() if gpus is None else gpus):
            return
    except ServiceError:
        return  # check_gpus reports it
    instead = "until then PyTorch decodes on the GPU, and faster-whisper on the CPU"
    found = check()
    if not found:
        advice = f"update the driver to one for CUDA 12 or newer; {instead}"
        yield Finding("decoder", "warn", "CTranslate2 sees no GPU", advice)
    for it in found:
        if it.error:
            yield Finding("decoder", "warn", it.text, f"{REMEDY}; {instead}")
        else:
            yield Finding("decoder", "ok", it.text)


def check_server(settings: Settings) -> Finding:
    """Check for a Redis server that `lorajob up` can start.

    A missing one is only a warning if LORAJOB_REDIS_URL names another.
    """
    try:
        path = find_server()
    except ServiceError as error:
        needed = settings.redis_url is None
        text = "`lorajob up` cannot start a Redis here"
        return Finding("server", "fail" if needed else "warn", text, str(error))
    version = ".".join(map(str, server_version(path) or ()))
    return Finding("server", "ok", f"`lorajob up` can start {path.name} {version}")


def check_service(settings: Settings) -> Iterator[Finding]:
    """Check the service's Redis, and that workers serve both queues."""
    try:
        url = redis_url(settings)
    except ServiceError:
        advice = "`lorajob up` starts one here; LORAJOB_REDIS_URL names one that runs elsewhere"
        yield Finding("redis", "warn", "no service is up", advice)
        return
    try:
        with service_errors(settings), connect(settings) as redis:
            info = _information(redis)
            if info.get("redis_mode") == "cluster":
                advice = "set LORAJOB_REDIS_URL to a single Redis, or to Sentinels"
                yield Finding("redis", "fail", f"{shown(url)} {NO_CLUSTER}", advice)
                return
            workers = {queue: living(redis, queue) for queue in KINDS}
            damaged = Records(redis).damaged()
            versions = found_versions(redis, sorted({*workers["cpu"], *workers["gpu"]}))
            unfit = unfit_workers(redis, [name for names in workers.values() for name in names])
    except (ServiceError, UsageError) as error:
        yield _unreachable(settings, str(error))
        return
    yield from _check_redis(shown(url), info)
    for job_id, why in damaged.items():
        yield Finding("jobs", "warn", f"{job_id} is set aside: {why}", REPAIR)
    for queue, names in workers.items():
        if names:
            yield Finding("workers", "ok", f"queue {queue}: {', '.join(sorted(names))}")
        else:
            advice = f"start one with `lorajob worker --queue {queue}`; jobs wait until then"
            yield Finding("workers", "warn", f"queue {queue}: none", advice)
    yield from _check_versions(versions)
    for name, found in sorted(unfit.items()):
        advice = "repair that machine; the worker takes work again by itself"
        yield Finding("workers", "warn", f"{name} takes no work: {found.why}", advice)


def _check_versions(versions: dict[str, Version]) -> Iterator[Finding]:
    """Check that all workers run one version, and that they read the jobs submitted here."""
    if mixed := mixture(versions):
        advice = "update the older ones; jobs of a newer format wait for the workers that read it"
        yield Finding("workers", "warn", f"several versions: {mixed}", advice)
    old = sorted(name for name, it in versions.items() if it.format < HERE.format)
    if old:
        text = f"too old for jobs submitted here (format {HERE.format}): {', '.join(old)}"
        yield Finding("workers", "warn", text, "update lorajob on their machines")


def _information(redis: Redis) -> dict[str, object]:
    """The answer to INFO; only the version if the user may not ask for more."""
    try:
        return cast("dict[str, object]", redis.info())
    except NoPermissionError:
        # redis gives this method no types.
        said = cast("list[object] | dict[str, object]", redis.execute_command("HELLO"))  # type: ignore[no-untyped-call]
        pairs = said if isinstance(said, dict) else dict(zip(said[::2], said[1::2], strict=True))
        mode = pairs.get("mode")
        return {"redis_version": pairs["version"], "redis_mode": mode, "aof_enabled": None}


def _unreachable(settings: Settings, text: str) -> Finding:
    if settings.redis_url is not None:
        advice = "start that Redis, or correct or unset LORAJOB_REDIS_URL"
        return Finding("redis", "fail", text, advice)
    if is_up(settings.home.expanduser()):
        advice = f"see {settings.home / 'log'}; `lorajob down`, then `lorajob up` starts it anew"
        return Finding("redis", "fail", text, advice)
    return Finding("redis", "warn", text, "what was up has ended; `lorajob up` starts it anew")


def _check_redis(url: str, info: dict[str, object]) -> Iterator[Finding]:
    """Check version, append-only file and eviction in the answer to INFO."""
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield Finding("redis", "fail", f"{url} is Redis {version}", "6.2 or newer is needed")
        return
    yield Finding("redis", "ok", f"{url} is Redis {version}")
    if info.get("aof_enabled", 0) is None:
        text = "this user may not run INFO; appendonly and maxmemory-policy are not checked"
        yield Finding("redis", "ok", text)
    elif not info.get("aof_enabled"):
        advice = "set `appendonly yes`; without it a restart of Redis loses jobs"
        yield Finding("redis", "warn", "keeps no append-only file", advice)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        advice = "set `maxmemory-policy noeviction`; else Redis deletes jobs when memory is full"
        yield Finding("redis", "warn", f"evicts keys by {policy}", advice)
