"""Parses ELAN's .eaf files: tiers of annotations with times."""

from dataclasses import dataclass
from xml.etree import ElementTree

from lorajob.corpora.praat import Tier
from lorajob.corpora.subtitles import Cue


@dataclass(frozen=True)
class ElanTier:
    """A tier, and what it says about itself. `parent` is "" for a tier of its own."""

    tier: Tier
    parent: str
    speaker: str


def read_eaf(data: bytes) -> list[ElanTier]:
    """All tiers. An annotation that refers to another one has its times.

    Raises ValueError if the file is no ELAN document.
    """
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from None
    if root.tag != "ANNOTATION_DOCUMENT":
        raise ValueError("no ELAN document")
    slots = {
        slot.get("TIME_SLOT_ID", ""): int(slot.get("TIME_VALUE", "-1000")) / 1000
        for slot in root.iter("TIME_SLOT")
    }
    times = _times(root, slots)
    return [_tier(tier, times) for tier in root.iter("TIER")]


def _times(root: ElementTree.Element, slots: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Annotation -> start and end in seconds, negative if unknown."""
    times, parents = {}, {}
    for found in root.iter("ALIGNABLE_ANNOTATION"):
        refs = found.get("TIME_SLOT_REF1", ""), found.get("TIME_SLOT_REF2", "")
        times[found.get("ANNOTATION_ID", "")] = slots.get(refs[0], -1.0), slots.get(refs[1], -1.0)
    for found in root.iter("REF_ANNOTATION"):
        parents[found.get("ANNOTATION_ID", "")] = found.get("ANNOTATION_REF", "")
    for name in parents:
        above, seen = parents[name], {name}
        while above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
        times[name] = times.get(above, (-1.0, -1.0))
    return times


def _tier(tier: ElementTree.Element, times: dict[str, tuple[float, float]]) -> ElanTier:
    cues = []
    for kind in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
        for found in tier.iter(kind):
            start, end = times[found.get("ANNOTATION_ID", "")]
            text = " ".join((found.findtext("ANNOTATION_VALUE") or "").split())
            cues.append(Cue(start, end, text))
    name = tier.get("TIER_ID", "")
    parent, speaker = tier.get("PARENT_REF", ""), tier.get("PARTICIPANT", "")
    return ElanTier(Tier(name, cues), parent, speaker or name.partition("@")[2])
