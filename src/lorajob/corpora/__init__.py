"""Corpora: readers of speech with transcripts, all yielding the same clips."""

from lorajob.corpora.clip import Clip, Corpus, Entry
from lorajob.corpora.find import check_corpus, find_corpus, fingerprint, open_corpus

__all__ = ["Clip", "Corpus", "Entry", "check_corpus", "find_corpus", "fingerprint", "open_corpus"]
