"""Reads the corpora of `--guard` into clip stores, which `evaluate` decodes.

OUT/guard-1/  OUT/guard-2/ ...   clips in the format of `clipstore`, in the order of the spec
"""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lorajob.corpora.entries import chosen
from lorajob.corpora.find import fingerprint, open_corpus
from lorajob.corpora.ids import Ids
from lorajob.corpora.pieces import Piece, in_threads, pieces
from lorajob.corpora.remote import local_copy
from lorajob.corpora.usable import Examined, Wanted, examine
from lorajob.errors import CorpusError
from lorajob.spec import JobSpec
from lorajob.spec_gate import GuardCorpus
from lorajob.spec_training import TextConfig
from lorajob.speech.clipstore import ClipStore, ClipWriter
from lorajob.speech.sample import balanced
from lorajob.storage import cache
from lorajob.storage.urls import local_path, public
from lorajob.visible import visible

# Version of these stores, part of the cache key: raise it with every change of them.
VERSION = 2
KIND = "guard-clips"

log = logging.getLogger(__name__)


def guard_folder(preprocessed: Path, number: int) -> Path:
    """The folder of the clips of the gate's own corpus `number`, from 1."""
    return preprocessed / f"guard-{number}"


def shown_name(place: str) -> str:
    """The name of a corpus without the folders of this machine, logins and queries."""
    path = local_path(place)
    return visible(public(place) if path is None else path.name)


def write_guards(
    spec: JobSpec, out: Path, count: Callable[[str], int], tick: Callable[[], None]
) -> None:
    """Write a store of each corpus of `gate.corpora` to `out`. `count` counts a text's tokens.

    Raises CorpusError for a corpus without usable clips, and as `open_corpus` does.
    """
    for number, guard in enumerate(spec.gate.corpora, start=1):
        _write(spec, guard, guard_folder(out, number), count, tick)


def _write(
    spec: JobSpec,
    guard: GuardCorpus,
    folder: Path,
    count: Callable[[str], int],
    tick: Callable[[], None],
) -> None:
    source, language = local_copy(guard.corpus), spec.guard_language(guard)
    # The model writes its own language in the form of its training.
    form = spec.text if language == spec.language else TextConfig()
    name = cache.key(
        version=VERSION,
        corpus=fingerprint(source, language, tick, guard.columns),
        guard=guard.model_dump(mode="json", include={"clips", "columns"}),
        spec=spec.model_dump(mode="json", include={"seed", "preprocess"}),
        language=language,
        text=form.model_dump(mode="json"),
    )
    if cache.lookup(KIND, name, folder) is not None:
        return
    corpus = open_corpus(source, language, tick, guard.columns)
    usable = chosen(corpus.entries, lambda entry: not entry.fault)
    own = chosen(usable, lambda entry: entry.split == spec.preprocess.test_split) or usable
    ids, speakers = [entry.id for entry in own], [entry.speaker for entry in own]
    drawn = balanced(range(len(own)), ids, speakers, guard.clips, spec.seed)
    wanted = Ids(ids[place] for place in drawn)
    dropped: Counter[str] = Counter()
    kept_as = Wanted(spec.preprocess, form, count, language)

    def work(piece: Piece) -> tuple[Piece, Examined]:
        return piece, examine(piece, kept_as)

    clips = corpus.clips({entry.split for entry in own}, only=wanted)
    with ClipWriter(folder, spec.preprocess.audio_format) as writer:
        for piece, found in in_threads(work, pieces(clips, spec.preprocess.max_seconds)):
            tick()
            if found.samples is None:
                dropped[found.reason or "unusable"] += 1
                continue
            clip = piece.clip
            writer.add(clip.id, found.samples, found.text, clip.speaker, found.tokens)
    kept, reasons = len(ClipStore(folder)), ", ".join(f"{n} {it}" for it, n in dropped.items())
    if not kept:
        raise CorpusError(
            f"gate.corpora: {public(guard.corpus)} has no usable clip: {reasons or 'it is empty'}"
        )
    log.info("guard %s: %d clips; dropped: %s", public(guard.corpus), kept, reasons or "none")
    if not dropped:  # files may be repaired later
        cache.keep(KIND, name, {"clips": kept}, folder)
