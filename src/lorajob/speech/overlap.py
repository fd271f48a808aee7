"""What test clips share with training clips, and what that means for the error rates."""

from collections.abc import Sequence

from pydantic import BaseModel

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
