"""Augmentation: which clips of a plan are altered, and how each sounds then.

The plan states the speed of each clip, because that changes lengths, and a seed for each altered
window. Everything else is drawn from that seed when the window is read. So each process, and a
training that continues from a checkpoint, makes the same samples.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lorajob.spec import JobSpec
from lorajob.spec_training import AugmentConfig
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.effects import (
    add_noise,
    change_level,
    read_part,
    reverberate,
    room_response,
    sound_files,
    telephone,
)
from lorajob.speech.noise import NOISE_KINDS, noise
from lorajob.training.packing import ClipSizes, Window
from lorajob.whisper.window import WINDOW_SECONDS

# SpecAugment's policy LD (Park et al., arXiv 1904.08779), with the widths as shares: two bands of
# at most 27 of 80 mel bins, two stretches of at most 100 frames.
MASKS = 2
WIDEST_BAND = 27 / 80
LONGEST_STRETCH_SECONDS = 1.0
LONGEST_STRETCH_SHARE = 0.2  # of a window, as in the paper's limit p
HOPS_A_SECOND = 100
GENERATED_NOISES = tuple(kind for kind in NOISE_KINDS if kind != "silence")


class Masks(NamedTuple):
    """Hidden parts of a window's log-mel features, as (first, end) of frames and of mel bins."""

    frames: tuple[tuple[int, int], ...] = ()
    bins: tuple[tuple[int, int], ...] = ()
    mel_bins: int = 0  # of the features; 0 if nothing is hidden

    def kept(self, frames: int, bins: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """1 for each frame and each bin that is kept, 0 for a hidden one."""
        rows, columns = np.ones(frames, np.float32), np.ones(bins, np.float32)
        for first, end in self.frames:
            rows[first:end] = 0
        for first, end in self.bins:
            columns[first:end] = 0
        return rows, columns


NOTHING_HIDDEN = Masks()


@dataclass(frozen=True)
class Alterer:
    """Alters the clips of a window. Picklable, for the loader processes."""

    config: AugmentConfig
    mel_bins: int
    noises: tuple[Path, ...] = ()
    rooms: tuple[Path, ...] = ()

    def sound(self, samples: Samples, rng: Generator) -> Samples:
        """A clip in another room, with noise, over a telephone, at another level. Its length
        stays.
        """
        config = self.config
        # All is drawn, so that one setting does not change what the others draw.
        room, noisy, called, level = rng.random(4)
        if room < config.room:
            samples = reverberate(samples, self._response(rng))
        if noisy < config.noise:
            ratio = rng.uniform(config.least_snr_db, config.most_snr_db)
            samples = add_noise(samples, self._noise(len(samples), rng), ratio)
        if called < config.telephone:
            samples = telephone(samples)
        if level < config.gain:
            samples = change_level(samples, rng.uniform(config.least_gain_db, config.most_gain_db))
        return samples

    def masks(self, seconds: float, rng: Generator) -> Masks:
        """What to hide of a window with `seconds` of sound."""
        if rng.random() >= self.config.masks:
            return NOTHING_HIDDEN
        longest = min(LONGEST_STRETCH_SECONDS, LONGEST_STRETCH_SHARE * seconds) * HOPS_A_SECOND
        frames = _stretches(int(longest), int(seconds * HOPS_A_SECOND), rng)
        bins = _stretches(int(WIDEST_BAND * self.mel_bins), self.mel_bins, rng)
        return Masks(frames, bins, self.mel_bins)

    def _response(self, rng: Generator) -> Samples:
        if not self.rooms:
            return room_response(rng)
        return read_part(self.rooms[int(rng.integers(len(self.rooms)))], WINDOW_SECONDS, 0.0)

    def _noise(self, count: int, rng: Generator) -> Samples:
        if not self.noises:
            kind = GENERATED_NOISES[int(rng.integers(len(GENERATED_NOISES)))]
            return noise(kind, count, rng)
        path = self.noises[int(rng.integers(len(self.noises)))]
        return read_part(path, count / SAMPLE_RATE, rng.random())


def _stretches(longest: int, size: int, rng: Generator) -> tuple[tuple[int, int], ...]:
    found = []
    for _ in range(MASKS):
        length = int(rng.integers(longest + 1))
        first = int(rng.integers(max(1, size - length + 1)))
        found.append((first, first + length))
    return tuple(it for it in found if it[1] > it[0])


def make_alterer(config: AugmentConfig, mel_bins: int) -> Alterer:
    """Raises FilesError for a folder that is missing or has no sound file."""
    noises = _files(config.noise_folder, "augment.noise_folder")
    rooms = _files(config.room_folder, "augment.room_folder")
    return Alterer(config, mel_bins, noises, rooms)


def _files(folder: str | None, setting: str) -> tuple[Path, ...]:
    return () if folder is None else tuple(sound_files(Path(folder).expanduser(), setting))


def digest_files(config: AugmentConfig) -> str:
    """A hash of the settings, and of the names and sizes of the user's noises and rooms."""
    alterer = make_alterer(config, 0)
    files = [
        (path.name, path.stat().st_size)
        for found in (alterer.noises, alterer.rooms)
        for path in found
    ]
    return hashlib.sha256(repr((config.model_dump_json(), files)).encode()).hexdigest()


def alter_plan(
    plan: Sequence[list[Window]], sizes: ClipSizes, config: AugmentConfig, seed: int
) -> list[list[Window]]:
    """The same steps and windows, with seeds for altered sound and with speeds of the clips.

    Windows without speech stay. No window becomes longer than 30 s.
    """
    rng = random.Random(f"augment/{seed}")
    return [[_altered(window, sizes, config, rng) for window in step] for step in plan]


def _altered(window: Window, sizes: ClipSizes, config: AugmentConfig, rng: random.Random) -> Window:
    if not window.clips:
        return window
    seed = rng.getrandbits(32)
    speeds = [
        round(rng.uniform(config.slowest, config.fastest), 2)
        if rng.random() < config.speed
        else 1.0
        for _ in window.clips
    ]
    pauses = sum(window.pause(number) for number in range(len(window.clips) - 1))
    lengths = [sizes.seconds[clip] for clip in window.clips]
    # Slowed clips may not fit any more. The last ones keep their speed then.
    for number in reversed(range(len(speeds))):
        taken = sum(map(lambda length, speed: length / speed, lengths, speeds))
        if taken + pauses <= WINDOW_SECONDS:
            break
        speeds[number] = max(speeds[number], 1.0)
    if set(speeds) == {1.0}:
        speeds = []
    return replace(window, speeds=tuple(speeds), altered=seed)


def uses_augmentation(spec: JobSpec, held_back: int) -> bool:
    """Whether the job trains on altered clips, at least on trial."""
    use = spec.augment.use
    return use == "always" or (use == "auto" and held_back > 0)
