"""Batches that deal the clips of an epoch evenly to a given number of optimizer steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EvenSteps:
    """Deals `clips` clips to `steps` steps of an epoch, in another random order in each epoch."""

    clips: int
    steps: int
    random: np.random.Generator

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        order = self.random.permutation(self.clips)
        for part in np.array_split(order, self.steps):
            yield [int(clip) for clip in part]
