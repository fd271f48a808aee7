"""Draws test clips: the same for the same seed, and as many of each speaker as possible."""

from collections import defaultdict
from collections.abc import Sequence

from lorajob.corpora.split import seeded


def balanced(
    places: Sequence[int], ids: Sequence[str], speakers: Sequence[str], count: int, seed: int
) -> list[int]:
    """At most `count` of `places`, which index `ids` and `speakers`, in the order of drawing.

    Each round takes one clip of every speaker that has one left. Speakers and their clips come in
    the order of a seeded hash, so any first part of the result is balanced too. Clips of unknown
    speakers ("") count as those of one speaker.
    """
    of_speaker: dict[str, list[int]] = defaultdict(list)
    for place in sorted(places, key=lambda place: seeded(ids[place], seed)):
        of_speaker[speakers[place]].append(place)
    order = sorted(of_speaker, key=lambda name: seeded(name, seed))
    drawn: list[int] = []
    depth = 0
    while len(drawn) < min(count, len(places)):
        drawn += [of_speaker[name][depth] for name in order if depth < len(of_speaker[name])]
        depth += 1
    return drawn[:count]
