"""Packs a corpus of files as one tar archive, with its table and audio, and opens it again.

    lorajob-corpus.jsonl   comes first: a line for each clip, in the corpus's order
    clips/00000000         the audio of each clip, numbered in that order, in its own format

Audio that is missing in the corpus is missing in the archive.
"""

import io
import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from lorajob.corpora.archive import MAX_AUDIO_BYTES, MAX_TABLE_BYTES, Archive
from lorajob.corpora.clip import Corpus, Entry
from lorajob.corpora.common_voice import ArchiveReader
from lorajob.errors import CorpusError

TABLE = "lorajob-corpus.jsonl"
CLIPS = PurePosixPath("clips")


def pack_corpus(corpus: Corpus, target: IO[bytes]) -> None:
    """Write the archive. Equal corpora give equal bytes. Raises OSError if a file or disk fails."""
    lines = [
        {"id": it.id, "source": f"{number:08d}", "text": it.text, "speaker": it.speaker}
        | {"split": it.split}
        for number, it in enumerate(corpus.entries)
    ]
    table = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, TABLE, len(table), io.BytesIO(table))
        for number, clip in enumerate(corpus.reader.read(list(corpus.entries))):
            if not isinstance(clip.audio, Path) or not clip.audio.is_file():
                continue
            size = clip.audio.stat().st_size
            # Jobs refuse larger files.
            if size <= MAX_AUDIO_BYTES:
                with clip.audio.open("rb") as file:
                    _add(tar, f"{CLIPS}/{number:08d}", size, file)


def open_packed(path: Path) -> Corpus | None:
    """The corpus in an archive of `pack_corpus`; None for any other archive.

    Raises CorpusError if the archive is damaged.
    """
    archive = Archive(path)
    for name, member, tar in archive.members():
        if str(name) != TABLE:
            return None
        with archive.stream(tar, member, MAX_TABLE_BYTES) as file:
            try:
                entries = tuple(Entry(**json.loads(line)) for line in file)
            except (ValueError, TypeError) as error:
                raise CorpusError(f"{path}: {TABLE} is damaged: {error}") from None
        return Corpus(entries, ArchiveReader(path, CLIPS))
    return None


def _add(tar: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, file)
