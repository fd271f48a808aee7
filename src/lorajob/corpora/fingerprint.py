"""Hashes a corpus's content, so that the same corpus is recognised."""

import hashlib
from pathlib import Path

from lorajob.corpora.clip import Corpus, FileReader, Tick

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
    if isinstance(corpus.reader, FileReader):
        hashed.update(str(corpus.reader.folder.resolve()).encode())
    for entry in corpus.entries:
        hashed.update(repr((entry.id, entry.text, entry.speaker, entry.split)).encode())
        if isinstance(corpus.reader, FileReader) and entry.source:
            try:
                stat = (corpus.reader.folder / entry.source).stat()
                hashed.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}".encode())
            except OSError:
                hashed.update(b"missing")
        tick()
    return hashed.hexdigest()
