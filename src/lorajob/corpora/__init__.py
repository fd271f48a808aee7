"""Readers of corpora, that is of speech with transcripts. All yield the same kind of clips.

May import: lorajob.{speech,storage,job} and the files below these.
"""

from lorajob.corpora.clip import Clip, Corpus, Entry
from lorajob.corpora.find import check_corpus, find_corpus, fingerprint, open_corpus
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
    "fingerprint",
    "local_copy",
    "open_corpus",
]
