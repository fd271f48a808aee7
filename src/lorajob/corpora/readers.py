"""The readers of corpora, and which of them reads a given corpus.

A reader is a module with the names of `Reader`. Readers of other packages are found by the entry
point `lorajob.readers`; they come first, because they are the more special ones.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Protocol

from lorajob.corpora import (
    beside,
    common_voice,
    fleurs,
    json_manifest,
    kaldi,
    librispeech,
    ljspeech,
    manifest,
    nemo,
    packed,
    parquet,
    saved_dataset,
    spontaneous,
    whisper_finetune,
)
from lorajob.corpora.clip import Corpus, Tick
from lorajob.corpora.place import Place
from lorajob.corpora.spelling import AUDIO_SUFFIXES
from lorajob.errors import CorpusError, UsageError

ENTRY_POINTS = "lorajob.readers"


class Reader(Protocol):
    """Reads corpora of one layout. A module or an object may be a reader."""

    @property
    def NAME(self) -> str:
        """What it reads, as in messages: `Common Voice release`."""
        ...

    def looks_like(self, place: Place) -> str | None:
        """None if the place has this layout, else why not, in a few words. Must be quick.

        If not `place.whole`, only the first files of an archive are known.
        """
        ...

    def check(self, place: Place, language: str) -> None:
        """Raise UsageError or CorpusError if the corpus cannot be read or is of another language.

        Must be quick: it reads the first rows of tables and no audio.
        """
        ...

    def clips(self, place: Place, language: str, tick: Tick | None) -> Corpus:
        """Read the tables. `tick` is called often. Raises as `check` does."""
        ...


# The first that knows a layout reads it: a more special reader comes before a more general one.
BUILT_IN: tuple[Reader, ...] = (
    packed,
    saved_dataset,
    spontaneous,
    fleurs,
    common_voice,
    kaldi,
    ljspeech,
    whisper_finetune,
    nemo,
    manifest,
    json_manifest,
    parquet,
    librispeech,
    beside,
)


@cache
def readers() -> tuple[Reader, ...]:
    """All readers, in the order in which they are tried.

    Raises UsageError if a reader of another package cannot be imported.
    """
    others: list[Reader] = []
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            others.append(point.load())
        # Code of another package may raise anything.
        except Exception as error:
            raise UsageError(
                f"{ENTRY_POINTS}: {point.name} = {point.value} cannot be imported ({error});"
                " mend or remove its package"
            ) from None
    return (*others, *BUILT_IN)


def reader_of(place: Place) -> Reader:
    """The first reader that knows the layout of a place.

    Raises CorpusError, for a single file UsageError, that says why each reader declined.
    """
    reasons = []
    for reader in readers():
        reason = reader.looks_like(place)
        if reason is None:
            return reader
        reasons.append(f"{reader.NAME}: {reason}")
    if place.path.suffix.lower() in AUDIO_SUFFIXES and place.path.is_file():
        raise UsageError(
            f"corpus: {place.path} is a recording; give a table or a folder that has the texts of "
            "recordings, too, in a layout of docs/corpora.md"
        )
    kind = UsageError if place.table else CorpusError
    raise kind(
        f"corpus: {place.path} has a layout that no reader knows ({'; '.join(reasons)});"
        " docs/corpora.md shows the layouts"
    )
