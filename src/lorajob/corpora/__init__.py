"""Readers of corpora, that is of speech with transcripts. All yield the same kind of clips.

May import: lorajob.{speech,storage,job} and the files below these.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorajob.corpora.clip import Clip, Corpus
    from lorajob.corpora.entries import Entry
    from lorajob.corpora.find import check_corpus, find_corpus, open_corpus
    from lorajob.corpora.remote import check_remote, local_copy
    from lorajob.corpora.stored import bring_corpus

__all__ = [
    "Clip",
    "Corpus",
    "Entry",
    "bring_corpus",
    "check_corpus",
    "check_remote",
    "find_corpus",
    "local_copy",
    "open_corpus",
]

_HOMES = {
    "Clip": "lorajob.corpora.clip",
    "Corpus": "lorajob.corpora.clip",
    "Entry": "lorajob.corpora.entries",
    "bring_corpus": "lorajob.corpora.stored",
    "check_corpus": "lorajob.corpora.find",
    "check_remote": "lorajob.corpora.remote",
    "find_corpus": "lorajob.corpora.find",
    "local_copy": "lorajob.corpora.remote",
    "open_corpus": "lorajob.corpora.find",
}


def __getattr__(name: str) -> object:
    """Load a name when it is first used: most commands and workers read no corpus."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
