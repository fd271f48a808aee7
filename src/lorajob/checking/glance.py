"""Reads the tables of a corpus before a job is queued, and refuses what preprocessing would."""

import logging
import math
import time
from collections.abc import Sequence
from itertools import islice

from lorajob.checking.texts import Trait, measure_text
from lorajob.corpora import hub, mdc
from lorajob.corpora.clip import Columns, Corpus, Tick
from lorajob.corpora.entries import Entry
from lorajob.corpora.find import checked_reader, quick_place, unless_partial
from lorajob.corpora.hub_look import Asked, look_at_hub
from lorajob.corpora.peek import peek, within
from lorajob.corpora.place import Place
from lorajob.corpora.selection import no_clips, usable_for_training
from lorajob.errors import CorpusError
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.storage.urls import local_path, public

GLANCE_SECONDS = 2.0  # most time for the tables of one corpus
TEXTS = 2_000  # most texts whose script is checked
WRONG_SHARE = 0.5  # a corpus with a larger share of texts in another script is in the wrong script

log = logging.getLogger(__name__)


class _TimeUp(Exception):
    """The tables take too long. The worker reads them whole."""


def glance(corpus: str, language: str, columns: Columns, spec: JobSpec) -> Corpus | None:
    """The corpus at a path or a url, if its tables can be read in GLANCE_SECONDS, else None.

    Of an archive that is too large for that, its first files are checked. Raises UsageError or
    CorpusError as `open_corpus` does.
    """
    deadline = time.monotonic() + GLANCE_SECONDS

    def tick() -> None:
        if time.monotonic() > deadline:
            raise _TimeUp

    def look_at(place: Place) -> Corpus | None:
        return _look(place, language, spec, tick)

    try:
        if (path := local_path(corpus)) is not None:
            return look_at(quick_place(path, columns))
        if corpus.startswith(mdc.SCHEME):
            within(GLANCE_SECONDS, lambda: mdc.check_language(corpus, language))
            return None
        if corpus.startswith(hub.SCHEME):
            _look_at_hub(corpus, language, columns, spec)
            return None
        return peek(corpus, GLANCE_SECONDS, columns, look_at)
    except _TimeUp:
        log.debug("%s: its tables take over %g s", public(corpus), GLANCE_SECONDS)
        return None


def _look_at_hub(corpus: str, language: str, columns: Columns, spec: JobSpec) -> None:
    # Of several corpora one may be for training and another one for testing.
    trained = corpus == spec.corpus and not spec.more_corpora
    train = spec.preprocess.train_splits if trained else ()
    asked = Asked(corpus, language, columns, train)
    first = within(GLANCE_SECONDS, lambda: look_at_hub(asked))
    if first is not None and language == spec.language:
        check_script(first, spec)


def _look(place: Place, language: str, spec: JobSpec, tick: Tick) -> Corpus | None:
    """The corpus, if all its files are known. Raises what is certain from those that are."""
    reader = checked_reader(place, language)
    if reader is None:
        return None
    found = None
    with unless_partial(place):
        found = reader.clips(place, language, tick)
    if found is None or place.whole:
        return found
    # A corpus in another language is for guarding a model, not for training.
    if language == spec.language:
        check_script(found.entries, spec)
    return None


def check_tables(corpora: Sequence[Corpus], spec: JobSpec) -> None:
    """Raise CorpusError if a job would find no training clip, or texts in another script.

    `corpora` are all of the job's, the test corpus last.
    """
    config = spec.preprocess
    train = corpora[:-1] if spec.test_corpus else corpora
    if not any(usable_for_training(corpus, config) for corpus in train):
        raise no_clips(train[0], config)
    for corpus in corpora:
        check_script(corpus.entries, spec)


def check_script(entries: Sequence[Entry], spec: JobSpec) -> None:
    """Raise CorpusError if most texts are in another script than the language's.

    At most TEXTS texts, spread over all, are checked.
    """
    if spec.preprocess.allow_script:
        return
    config, language = spec.preprocess, find_language(spec.language)
    used = {*config.train_splits, config.test_split}
    step = max(1, math.ceil(len(entries) / TEXTS))
    texts = [
        entry.text
        for entry in islice(entries, 0, None, step)
        if entry.split in used and not entry.fault and entry.text
    ]
    wrong = [it for it in texts if Trait.OTHER_SCRIPT in measure_text(it, language).traits]
    if texts and len(wrong) > WRONG_SHARE * len(texts):
        raise CorpusError(
            f"corpus: {len(wrong):,} of {len(texts):,} texts are in another script than"
            f" {language.name} is written in ({' or '.join(language.scripts)}), such as"
            f" {wrong[0][:40]!r}; give the right corpus or language, or --allow-script"
        )
