"""What `lorajob doctor` looks at: each check finds something, says how it is and what to do."""

import importlib.metadata
import io
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lorajob.errors import LorajobError, ServiceError

if TYPE_CHECKING:
    from lorajob.worker.settings import Settings

GIB = 2**30
LOW_DISK_BYTES = 10 * GIB  # a base model, its merged float copy and a corpus of some ten hours
NO_DISK_BYTES = GIB
LOW_MEMORY_BYTES = 4 * GIB  # whisper-base trains on a CPU in about three
LOW_GPU_BYTES = 8 * GIB  # large-v2 in 8 bit trains in just under eight
OLDEST_REDIS = (6, 2)  # kombu 5.7 needs its commands
FORMATS = ("WAV", "FLAC", "MP3", "OGG")


@dataclass(frozen=True)
class Finding:
    """One line of the report; `advice` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""


def all_checks(settings: "Settings") -> Iterator[Finding]:
    """Every finding, in the order of what stands on what."""
    yield check_versions()
    yield check_decoding()
    yield check_disk(settings.jobs)
    yield check_memory()
    yield from check_gpus()
    yield from check_corpora(settings.corpora)
    yield check_redis_server(settings)
    yield from check_service(settings)


def check_versions() -> Finding:
    """Every package that lorajob requires is there, in a version that it accepts."""
    from packaging.requirements import Requirement

    wrong, found = [], {}
    for line in importlib.metadata.requires("lorajob") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        found[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} is needed, {version} is here")
    if wrong:
        return Finding("versions", "fail", "; ".join(wrong), "install lorajob anew with pip")
    shown = ("torch", "transformers", "peft", "ctranslate2", "faster-whisper", "celery")
    python = ".".join(map(str, sys.version_info[:3]))
    versions = [f"lorajob {importlib.metadata.version('lorajob')}", f"Python {python}"]
    versions += [f"{name} {found[name]}" for name in shown if name in found]
    return Finding("versions", "ok", ", ".join(versions))


def check_decoding() -> Finding:
    """A tone is encoded in every common format and decoded again, without ffmpeg."""
    import numpy as np
    import soundfile

    from lorajob.audio import decode

    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(24000) / 48000)
    broken = []
    for name in FORMATS:
        file = io.BytesIO()
        try:
            soundfile.write(file, tone, 48000, format=name)
            samples = decode(file.getvalue())
        except (LorajobError, soundfile.LibsndfileError) as error:
            broken.append(f"{name.lower()} ({error})")
            continue
        if not 7500 <= len(samples) <= 9000 or np.abs(samples).max() < 0.1:  # half a second, 16 kHz
            broken.append(f"{name.lower()} (decodes to something else)")
    if broken:
        advice = "reinstall the soundfile package; its wheel carries libsndfile 1.1 or newer"
        return Finding("decoding", "fail", f"cannot decode {', '.join(broken)}", advice)
    return Finding("decoding", "ok", f"{', '.join(FORMATS).lower()} decode without ffmpeg")


def check_disk(folder: Path) -> Finding:
    """Jobs can be written, and there is room for them."""
    place = folder.expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
        advice = "make it writable, or set LORAJOB_ARTIFACTS or LORAJOB_HOME to another folder"
        return Finding("disk", "fail", f"{place} is not a folder you can write to", advice)
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.0f} GiB free for jobs in {folder}"
    if free >= LOW_DISK_BYTES:
        return Finding("disk", "ok", text)
    advice = "make room, or set LORAJOB_ARTIFACTS to a folder on a larger disk"
    return Finding("disk", "fail" if free < NO_DISK_BYTES else "warn", text, advice)


def check_memory() -> Finding:
    """Main memory that is available, and processors."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return Finding("memory", "ok", f"{cores} processors; memory unknown on this system")
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    available = fields.get("MemAvailable", 0)
    text = f"{available / GIB:.1f} of {fields['MemTotal'] / GIB:.1f} GiB available, {cores} processors"
    if available < LOW_MEMORY_BYTES:
        advice = "close other programs, or start from a smaller base model"
        return Finding("memory", "warn", text, advice)
    return Finding("memory", "ok", text)


def check_corpora(folder: Path | None) -> Iterator[Finding]:
    """LORAJOB_CORPORA, where it is set, is a folder."""
    if folder is not None and not folder.expanduser().is_dir():
        advice = "correct LORAJOB_CORPORA, or name the corpus with `lorajob submit --corpus`"
        yield Finding("corpora", "warn", f"LORAJOB_CORPORA: {folder} is no folder", advice)
    elif folder is not None:
        yield Finding("corpora", "ok", f"looked for in {folder}")
