"""What test clips share with training clips, and what that means for the error rates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel

from lorajob.job.results import PARTS, Metric, Scores
from lorajob.speech.scoring import score_with_intervals
from lorajob.speech.text import normalise


class Overlap(BaseModel, frozen=True):
    """Speakers and sentences that are in training and in test, and the test clips they have."""

    speakers: int
    texts: int
    clips_of_speakers: int
    clips_of_texts: int
    test_clips: int

    def sentences(self) -> list[str]:
        """What a reader of the error rates has to know."""
        said = []
        if self.clips_of_speakers:
            said.append(
                f"{self.clips_of_speakers:,} of {self.test_clips:,} test clips are of speakers who "
                f"are also in training: speakers that the model has not heard may have more errors"
            )
        if self.clips_of_texts:
            said.append(
                f"{self.clips_of_texts:,} of {self.test_clips:,} test clips have a sentence that "
                f"is also in training: other sentences may have more errors"
            )
        return said


class Shared(BaseModel, frozen=True):
    """Which speakers and test clips are those of an Overlap. `report.json` of a job keeps it."""

    speakers: frozenset[str] = frozenset()
    clips_of_texts: frozenset[str] = frozenset()
    """The ids of the test clips with a sentence that is also in training."""

    def parts(
        self, places: Collection[int], ids: Sequence[str], speakers: Sequence[str]
    ) -> dict[str, list[int]]:
        """The places of the test clips that share nothing with training, by what is new in them.

        A name of PARTS is missing if all clips or none are in its part. Clips of unknown speakers
        are in no part of new speakers.
        """
        voices = [it for it in places if speakers[it] and speakers[it] not in self.speakers]
        texts = [it for it in places if ids[it] not in self.clips_of_texts]
        both = sorted({*voices} & {*texts})
        found = {}
        if self.speakers:
            found["speakers"] = voices
        if self.clips_of_texts:
            found["sentences"] = texts
        if len(found) == 2 and both not in (voices, texts):
            found["both"] = both
        return {name: part for name, part in found.items() if 0 < len(part) < len(places)}


class TestClips(Protocol):
    """The test clips of a job, such as a ClipStore."""

    @property
    def ids(self) -> list[str]: ...
    @property
    def texts(self) -> list[str]: ...
    @property
    def speakers(self) -> list[str]: ...


def unshared_scores(
    shared: Shared,
    clips: TestClips,
    transcripts: Mapping[str, Mapping[int, str]],
    seed: int,
    language: str,
) -> dict[str, dict[str, Scores]]:
    """Part -> model -> scores on the test clips that share nothing with training.

    `transcripts` are those of each model by the clip's place.
    """
    found: dict[str, dict[str, Scores]] = {}
    for model, texts in transcripts.items():
        for name, places in shared.parts(texts.keys(), clips.ids, clips.speakers).items():
            found.setdefault(name, {})[model] = score_with_intervals(
                [clips.texts[it] for it in places],
                [texts[it] for it in places],
                [clips.speakers[it] for it in places],
                seed,
                language,
            )
    return found


def unshared_words(unshared: Mapping[str, Mapping[str, Scores]], metric: Metric) -> list[str]:
    """The scores of `unshared_scores`, a sentence for each part."""
    return [
        f"test clips of {PARTS[name]} alone: "
        + ", ".join(
            f"{model} {it.rate(metric):.1f} % {metric.upper()} ({it.clips:,} clips)"
            for model, it in of.items()
        )
        for name, of in unshared.items()
    ]


def overlap(
    train_speakers: Sequence[str],
    train_texts: Sequence[str],
    test_speakers: Sequence[str],
    test_texts: Sequence[str],
    language: str,
) -> Overlap:
    """Count what both sets share. Unknown speakers ("") are not compared."""
    speakers = set(train_speakers) - {""}
    texts = {normalise(text, language) for text in train_texts}
    same_speaker = [name for name in test_speakers if name in speakers]
    same_text = [text for text in (normalise(it, language) for it in test_texts) if text in texts]
    return Overlap(
        speakers=len(set(same_speaker)),
        texts=len(set(same_text)),
        clips_of_speakers=len(same_speaker),
        clips_of_texts=len(same_text),
        test_clips=len(test_texts),
    )
