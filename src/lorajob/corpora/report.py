"""Counts which clips preprocessing kept, and which it dropped for which reason."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from lorajob.corpora.ids import hashed
from lorajob.job.results import PreprocessResult
from lorajob.speech.audio import NOT_FOUND
from lorajob.speech.text import normalise

EXAMPLES = 20  # ids named for each reason
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass
class _Kept:
    """Counts of one set, train or test."""

    # A corpus may hold a million clips: these take 16 bytes each.
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    texts: "array[int]" = field(default_factory=lambda: array("Q"))  # hashes of their texts
    speakers: Counter[str] = field(default_factory=Counter)  # clips of each known speaker
    dropped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)

    @property
    def hours(self) -> float:
        return sum(self.seconds) / 3600

    def as_dict(self) -> dict[str, object]:
        values = np.percentile(self.seconds or array("d", [0.0]), PERCENTILES)
        return {
            "clips": len(self.seconds),
            "hours": round(self.hours, 4),
            "speakers": len(self.speakers),
            "texts": len(np.unique(self.texts)),
            "seconds_percentiles": {
                str(percent): round(float(value), 2)
                for percent, value in zip(PERCENTILES, values, strict=True)
            },
            "dropped": dict(self.dropped),
        }


class CorpusReport:
    """Counts clips one by one. `target` is always "train" or "test".

    All rows of the corpus are counted: read = kept + dropped + unused.
    """

    def __init__(self, language: str, test_by: str, rows: int, unused: Mapping[str, int]) -> None:
        self.language = language
        self.test_by = test_by
        self.rows = rows
        self.unused = {reason: count for reason, count in unused.items() if count}
        self._kept = {"train": _Kept(), "test": _Kept()}
        self._ids: dict[str, list[str]] = defaultdict(list)
        self._examples: dict[str, str] = {}
        self._details: dict[str, str] = {}

    def add(
        self,
        target: str,
        id: str,
        text: str,
        speaker: str,
        seconds: float,
        reason: str | None,
        detail: str = "",
        remarks: tuple[str, ...] = (),
    ) -> None:
        """Count one clip. It was kept if `reason` is None, else dropped; `detail` says more.

        `remarks` are what is wrong with a clip that was kept.
        """
        kept = self._kept[target]
        for name in (reason,) if reason is not None else remarks:
            if len(self._ids[name]) < EXAMPLES:
                self._ids[name].append(id)
            self._details.setdefault(name, detail)
            self._examples.setdefault(name, f"{id}: {detail}" if detail else id)
        if reason is not None:
            kept.dropped[reason] += 1
            return
        kept.noted.update(remarks)
        kept.seconds.append(seconds)
        kept.texts.append(hashed(normalise(text, self.language)))
        if speaker:
            kept.speakers[speaker] += 1

    def clips(self, target: str) -> int:
        return len(self._kept[target].seconds)

    def reasons(self, target: str) -> str:
        """`12 not found, 3 too long, over 30 s`: dropped clips of one set, most frequent first."""
        dropped = self._kept[target].dropped.most_common()
        counts = ", ".join(f"{count:,} {reason}" for reason, count in dropped)
        missing = self._details.get(NOT_FOUND)
        return f"{counts}; {NOT_FOUND}: {missing}" if missing else counts or "none were listed"

    def result(self, size: int) -> PreprocessResult:
        """The stage's result. `size` is the size of the clip stores on disk, in bytes."""
        train, test = self._kept["train"], self._kept["test"]
        return PreprocessResult(
            train_clips=len(train.seconds),
            train_hours=train.hours,
            test_clips=len(test.seconds),
            test_hours=test.hours,
            dropped=dict(sorted((train.dropped + test.dropped).items())),
            bytes=size,
            noted=dict(sorted((train.noted + test.noted).items())),
            unused=self.unused,
            examples=dict(sorted(self._examples.items())),
        )

    def shared_texts(self, test_ids: Iterable[str]) -> list[str]:
        """Those of the test clips whose text is in training, too. Given are all, in their order."""
        return list(compress(test_ids, self._texts_in_training()))

    def _texts_in_training(self) -> NDArray[np.bool_]:
        return np.isin(self._kept["test"].texts, self._kept["train"].texts)

    def as_dict(self, size: int, shared_texts: list[str]) -> dict[str, object]:
        """All counts, for report.json. `shared_texts` is what the method of that name returns."""
        train, test = self._kept["train"], self._kept["test"]
        dropped, noted = train.dropped + test.dropped, train.noted + test.noted
        return {
            "language": self.language,
            "test_by": self.test_by,
            "splits": {target: kept.as_dict() for target, kept in self._kept.items()},
            "in_both": {
                "speakers": len(train.speakers.keys() & test.speakers.keys()),
                "texts": len(np.intersect1d(train.texts, test.texts)),
            },
            # Test clips of a speaker, or with a text, that is also in training.
            "test_clips_in_both": {
                "clips_of_speakers": _clips_of(train.speakers, test.speakers),
                "clips_of_texts": int(self._texts_in_training().sum()),
            },
            "shared": {
                "speakers": sorted(train.speakers.keys() & test.speakers.keys()),
                "clips_of_texts": shared_texts,
            },
            "rows": {
                "read": self.rows,
                "kept": len(train.seconds) + len(test.seconds),
                "dropped": dropped.total(),
                "unused": self.unused,
            },
            "dropped": self._counted(dropped),
            "noted": self._counted(noted),
            "bytes": size,
        }

    def _counted(self, counts: Counter[str]) -> dict[str, object]:
        return {
            name: {
                "clips": count,
                "examples": self._ids[name],
                "example": self._examples[name],
            }
            for name, count in sorted(counts.items())
        }


def _clips_of(train: Counter[str], test: Counter[str]) -> int:
    return sum(clips for key, clips in test.items() if key in train)
