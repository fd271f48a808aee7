"""Hashes a corpus's content, so that the same corpus is recognised."""

import hashlib
from pathlib import Path

from lorajob.corpora.clip import Corpus, Tick

CHUNK_BYTES = 16 << 20


def fingerprint_archive(path: Path, tick: Tick) -> str:
    """The SHA-256 of the file; `tick` is called between its parts."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
            tick()
    return hashed.hexdigest()


def fingerprint_files(corpus: Corpus, tick: Tick) -> str:
    """A hash of the tables' entries and of each audio file's path, size and times of change.

    The audio itself is not hashed: reading hundreds of hours would cost as much as it saves.
    """
    hashed = hashlib.sha256()
    for entry in corpus.entries:
        fields = (entry.id, entry.text, entry.speaker, entry.split, entry.start, entry.end)
        slack = (entry.start_slack, entry.end_slack) if entry.has_slack else ()
        hashed.update(repr((*fields, *slack, corpus.reader.stamp(entry))).encode())
        tick()
    return hashed.hexdigest()
