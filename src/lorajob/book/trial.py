"""Decodes the test clips of a job with its glossary (`evaluate.glossary`), and counts its terms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajob.book.decode import Book, decode_with_book
from lorajob.book.index import TermIndex
from lorajob.book.scores import TermCounter
from lorajob.book.terms import read_glossary
from lorajob.decoding.config import DecodeConfig
from lorajob.decoding.fast import FastDecoder, Sound
from lorajob.errors import FilesError
from lorajob.job.jobdir import JobDir, hash_file
from lorajob.job.results import GlossaryScores
from lorajob.spec import JobSpec
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score_with_intervals

Tell = Callable[[str], None]


@dataclass(frozen=True)
class GlossaryTrial:
    """What a glossary brings, and a sentence on it; None and "" without a glossary."""

    scores: GlossaryScores | None = None
    note: str = ""


@dataclass(frozen=True)
class PlainClips:
    """Test clips as places in their store, and their transcripts without a glossary."""

    store: ClipStore
    places: Sequence[int]
    sounds: Sequence[Sound]
    plain: Sequence[str]


def try_glossary(
    spec: JobSpec, job: JobDir, model: Path, config: DecodeConfig, clips: PlainClips, tell: Tell
) -> GlossaryTrial:
    """Decode test clips with the job's glossary by the converted `model`.

    `tell` is called with what is done, and may raise to stop. Raises FilesError if the copy of the
    glossary is missing or is not the submitted one.
    """
    if spec.evaluate.glossary is None:
        return GlossaryTrial()
    if not job.glossary.is_file() or hash_file(job.glossary) != spec.evaluate.glossary_sha256:
        raise FilesError(
            f"{job.glossary}: missing, or not the submitted glossary; submit the job again"
        )
    decoder = FastDecoder(model, config)
    if decoder.engine is None:
        return GlossaryTrial(note="glossary: not used, because PyTorch decodes")
    glossary = read_glossary(job.glossary.read_text("utf-8"))
    tell("glossary")
    book = Book(config.language, TermIndex(glossary, config.language))
    count = len(clips.sounds)
    heard = decode_with_book(
        decoder,
        clips.sounds,
        book,
        spec.evaluate.batch_size,
        lambda done: tell(f"glossary: {done}/{count}"),
    )
    texts = [it.text for it in heard]
    references = [clips.store.texts[it] for it in clips.places]
    speakers = [clips.store.speakers[it] for it in clips.places]
    counter = TermCounter(glossary, spec.language)
    after, before = counter.count(references, texts), counter.count(references, clips.plain)
    found = GlossaryScores(
        scores=score_with_intervals(references, texts, speakers, spec.seed, spec.language),
        terms=len(glossary.terms),
        said=after.said,
        missed=after.missed,
        missed_before=before.missed,
        false_alarms=after.false_alarms,
        false_alarms_before=before.false_alarms,
        words=after.words,
    )
    return GlossaryTrial(found, _sentence(found))


def _sentence(found: GlossaryScores) -> str:
    right, before = found.said - found.missed, found.said - found.missed_before
    return (
        f"glossary of {found.terms:,} terms: {right:,} of the {found.said:,} that are said are "
        f"right with it, {before:,} without; {found.false_alarms:,} false alarms in "
        f"{found.words:,} words, {found.false_alarms_before:,} without"
    )
