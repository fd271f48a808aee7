"""Checks of `lorajob doctor` on packages, files and settings, each with advice."""

import importlib.metadata
import io
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

GIB = 2**30

LOW_DISK_BYTES = 10 * GIB  # a base model, its merged float copy and a corpus of about ten hours
NO_DISK_BYTES = GIB
FORMATS = ("WAV", "FLAC", "MP3", "OGG")
SHOWN_VERSIONS = ("torch", "transformers", "peft", "ctranslate2", "faster-whisper", "celery")
TONE_SECONDS = 0.5


@dataclass(frozen=True)
class Finding:
    """One line of the report. `advice` is empty if there is nothing to do."""

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""


def check_versions() -> Finding:
    """Check that each required package is installed in an accepted version."""
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
            wrong.append(f"{requirement} is needed, {version} is installed")
    if wrong:
        return Finding("versions", "fail", "; ".join(wrong), "reinstall lorajob with pip")
    versions = [f"lorajob {importlib.metadata.version('lorajob')}"]
    versions.append(f"Python {'.'.join(map(str, sys.version_info[:3]))}")
    versions += [f"{name} {found[name]}" for name in SHOWN_VERSIONS if name in found]
    return Finding("versions", "ok", ", ".join(versions))


def check_decoding() -> Finding:
    """Encode a tone in each common format and decode it again, all in memory."""
    broken = [f"{name.lower()} ({why})" for name in FORMATS if (why := _decoding_trouble(name))]
    if broken:
        advice = "reinstall the soundfile package; its wheel carries libsndfile 1.1 or newer"
        return Finding("decoding", "fail", f"fails for {', '.join(broken)}", advice)
    return Finding("decoding", "ok", f"{', '.join(FORMATS).lower()} work, without ffmpeg")


def _decoding_trouble(name: str) -> str:
    """The problem with one format, or an empty text if it works."""
    import numpy as np
    import soundfile

    from lorajob.speech.audio import SAMPLE_RATE, AudioError, load_audio

    rate = 3 * SAMPLE_RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(TONE_SECONDS * rate) / rate)
    file = io.BytesIO()
    try:
        soundfile.write(file, tone, rate, format=name)
        samples = load_audio(file.getvalue(), max_seconds=2 * TONE_SECONDS)
    except (AudioError, soundfile.LibsndfileError) as error:
        return str(error)
    seconds = len(samples) / SAMPLE_RATE
    # The tolerance of 0.1 s allows for the padding of mp3.
    if abs(seconds - TONE_SECONDS) > 0.1 or np.abs(samples).max() < 0.1:
        return f"a tone of {TONE_SECONDS} s is decoded wrongly, to {seconds:.2f} s of sound"
    return ""


def check_disk(folder: Path) -> Finding:
    """Check that jobs can be written and that there is disk space for them."""
    place = folder.expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
        advice = "allow writing there, or set LORAJOB_ARTIFACTS or LORAJOB_HOME to another folder"
        return Finding("disk", "fail", f"{place} is not a folder you can write to", advice)
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.0f} GiB free for jobs in {folder}"
    if free >= LOW_DISK_BYTES:
        return Finding("disk", "ok", text)
    advice = "free disk space, or set LORAJOB_ARTIFACTS to a folder on a larger disk"
    return Finding("disk", "fail" if free < NO_DISK_BYTES else "warn", text, advice)


def check_store(url: str | None) -> Iterator[Finding]:
    """If LORAJOB_ARTIFACTS is a url, check that its store can be written."""
    from lorajob.storage.store import Store, StoreError

    if url is None:
        return
    probe = f".doctor-{secrets.token_hex(4)}"
    try:
        store = Store(url)
        store.write(probe, b"ok")
        store.remove(probe)
    except StoreError as error:
        advice = "check LORAJOB_ARTIFACTS, AWS_ENDPOINT_URL and the credentials"
        yield Finding("store", "fail", str(error), advice)
        return
    yield Finding("store", "ok", f"{url} can be written")


def check_corpora(folder: Path | None) -> Iterator[Finding]:
    """If LORAJOB_CORPORA is set, check that it is a folder."""
    if folder is not None and not folder.expanduser().is_dir():
        advice = "correct LORAJOB_CORPORA, or name the corpus with `lorajob submit --corpus`"
        yield Finding("corpora", "warn", f"LORAJOB_CORPORA: {folder} is not a folder", advice)
    elif folder is not None:
        yield Finding("corpora", "ok", f"found by language in {folder}")
