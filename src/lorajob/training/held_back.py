"""Which clips a training holds back for validation, and after which steps it decodes them.

Both follow from the clips, the settings and the seed, so a training that continues from a
checkpoint makes the same choices.
"""

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lorajob.corpora.split import seeded
from lorajob.spec import TrainConfig
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.text import normalise

LEAST_CLIPS = 30  # with fewer, chance decides between two checkpoints
SHARE = 0.05  # most of the training clips
# Decoding all held-back clips at all points costs at most this share of the training.
COST_SHARE = 0.05
# Cost of decoding a clip on a CPU, relative to training on it once (bench/RESULTS.md). On a fast
# GPU it is more, but then both take seconds.
DECODE_COST = 1.0
LEAST_POINTS, MOST_POINTS = 3, 10  # besides the decoding of the average

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldBack:
    """The clips of a validation, and the numbers of the steps that it follows."""

    clips: tuple[int, ...] = ()
    points: tuple[int, ...] = ()

    @property
    def averaged(self) -> tuple[int, ...]:
        """The last points, whose weights are averaged: a third, at least two."""
        return self.points[-max(2, math.ceil(len(self.points) / 3)) :]

    @property
    def digest(self) -> str:
        """A hash of all, for the key of a checkpoint's plan."""
        return hashlib.sha256(repr((self.clips, self.points)).encode()).hexdigest()


@dataclass(frozen=True)
class TrialPlan:
    """Which steps of a plan are taken twice: those after `begins` and up to `plain`.

    The plan's steps after `plain` are the same ones with augmentation.
    """

    begins: int
    plain: int

    def points(self, held: HeldBack) -> HeldBack:
        """The points of the second part: those of the first part after the fork, moved."""
        moved = tuple(it - self.begins + self.plain for it in held.points if it > self.begins)
        return replace(held, points=moved)


def hold_back(store: ClipStore, config: TrainConfig, seed: int, language: str) -> tuple[int, ...]:
    """The clips for validation, in ascending order; none if they would be too few.

    They are of the split dev, or of all clips without such a split; whole speakers while they fit,
    first those without other clips; then single clips. Clips whose sentence occurs again are left
    in the training, if enough others remain.
    """
    if config.keep == "last" or not config.validation_clips:
        return ()
    count = len(store)
    most = min(config.validation_clips, int(SHARE * count), _affordable(count, config))
    if most < LEAST_CLIPS:
        log.info(
            "no validation: at most %d of %d clips may be held back, and under %d decide nothing; "
            "the last weights are kept",
            most,
            count,
            LEAST_CLIPS,
        )
        return ()
    dev = [clip for clip, own in enumerate(store.dev) if own]
    if len(dev) < LEAST_CLIPS:
        dev = list(range(count))
    sentences = Counter(normalise(text, language) for text in store.texts)
    unique = [clip for clip in dev if sentences[normalise(store.texts[clip], language)] == 1]
    candidates = unique if len(unique) >= LEAST_CLIPS else dev
    chosen, speakers = _by_speaker(store, candidates, most, seed)
    if len(chosen) < LEAST_CLIPS:
        speakers = 0
        chosen = sorted(candidates, key=lambda clip: seeded(store.ids[clip], seed))[:most]
    whole = f"of {speakers} whole speakers" if speakers else "of speakers with other clips"
    log.info("validation: %d clips are held back, %s", len(chosen), whole)
    return tuple(sorted(chosen))


def _affordable(clips: int, config: TrainConfig) -> int:
    decodings = LEAST_POINTS + 1
    return int(COST_SHARE * clips * config.epochs / (DECODE_COST * decodings))


def _by_speaker(
    store: ClipStore, candidates: Sequence[int], most: int, seed: int
) -> tuple[list[int], int]:
    """All candidates of some speakers, at most `most`, and the number of these speakers."""
    groups: dict[str, list[int]] = defaultdict(list)
    for clip in candidates:
        groups[store.speakers[clip]].append(clip)
    groups.pop("", None)  # unknown speakers
    totals = Counter(store.speakers)
    order = sorted(groups, key=lambda name: (totals[name] > len(groups[name]), seeded(name, seed)))
    chosen: list[int] = []
    speakers = 0
    for name in order:
        if len(chosen) + len(groups[name]) <= most:
            chosen += groups[name]
            speakers += 1
    return chosen, speakers


def plan_points(held: int, trained: int, epochs: int, steps: int) -> tuple[int, ...]:
    """The steps after which the held-back clips are decoded: evenly spaced, the last one included.

    There are as many as COST_SHARE allows, the decoding of the average included.
    """
    if not held:
        return ()
    decodings = int(COST_SHARE * (held + trained) * epochs / (DECODE_COST * held))
    count = min(max(decodings - 1, LEAST_POINTS), MOST_POINTS, steps)
    return tuple(sorted({round(steps * number / count) for number in range(1, count + 1)}))
