"""Clips with their samples. A recording of which a corpus gives segments is decoded once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from lorajob.corpora.clip import Clip
from lorajob.speech import audio
from lorajob.speech.segments import Cut, cut


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip whose samples are cut out already, or are decoded when they are asked for."""

    clip: Clip
    found: Cut | audio.AudioError | None = None

    def samples(self, max_seconds: float) -> audio.Samples:
        """The clip's samples, mono at 16 kHz. Raises AudioError with the reason to drop it."""
        found = self.cut(max_seconds)
        return audio.load_audio(self.clip.audio, max_seconds) if found is None else found.mono()

    def cut(self, max_seconds: float) -> Cut | None:
        """The segment of the recording; None if the clip is all of it. Raises AudioError."""
        found, clip = self.found, self.clip
        if found is None and clip.is_segment:
            (found,) = cut(clip.audio, [(clip.start, clip.end)], max_seconds)
        if isinstance(found, audio.AudioError):
            raise found
        return found


def pieces(clips: Iterable[Clip], max_seconds: float) -> Iterator[Piece]:
    """The clips in their order. Segments of one recording, which come together, are cut here.

    Other clips are decoded by `Piece.samples`, which may run in other threads.
    """
    for _, group in groupby(clips, key=_recording):
        together = list(group)
        if len(together) == 1:
            yield Piece(together[0])
            continue
        spans = [(clip.start, clip.end) for clip in together]
        for clip, found in zip(together, cut(together[0].audio, spans, max_seconds), strict=True):
            yield Piece(clip, found)


def _recording(clip: Clip) -> object:
    """Equal for segments of one recording, and different for all other clips."""
    if not clip.is_segment or not clip.audio:
        return clip.id
    return id(clip.audio) if isinstance(clip.audio, bytes) else clip.audio
