"""Reads Common Voice releases: a tar.gz as downloaded, or its unpacked folder.

    cv-corpus-23.0-2025-09-05/hi/{train,dev,test,validated,other}.tsv
    cv-corpus-23.0-2025-09-05/hi/clips/common_voice_hi_12345678.mp3

Columns are found by name, because releases have from 8 to 13 of them. In a release no speaker is in
two of the splits train, dev and test. Clips that are in none of these three are in `validated` and
`other`, which are used only if a job asks for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from lorajob.corpora.archive import MAX_AUDIO_BYTES, MAX_TABLE_BYTES, Archive
from lorajob.corpora.clip import Clip, Corpus, Entry, FileReader, Tick
from lorajob.corpora.tables import pick, pick_optional, read_tsv, text_lines
from lorajob.errors import CorpusError, UsageError
from lorajob.languages import is_locale, is_locale_of

# A clip that is in two tables belongs to the first in this order.
SPLITS = ("test", "dev", "train", "validated", "other")
CLIPS = "clips"
MEMBERS_TO_CHECK = 50


@dataclass
class _Tables:
    """The entries of the tables that were read so far, by split."""

    of: dict[str, list[Entry]] = field(default_factory=dict)
    # Saves memory: all clips of a speaker share one string.
    _speakers: dict[str, str] = field(default_factory=dict)

    def add(self, split: str, table: IO[bytes], language: str) -> None:
        name = f"{split}.tsv"
        entries = self.of.setdefault(split, [])
        for number, row in enumerate(read_tsv(text_lines(table, name), name), start=1):
            file = PurePosixPath(pick(row, ("path",), name)).name
            text = pick(row, ("sentence",), name)
            speaker = pick_optional(row, ("client_id",)) or ""
            if number == 1:
                _check_locale(pick_optional(row, ("locale",)) or "", language, name)
            if file and "." not in file:
                file += ".mp3"  # missing in the first releases
            entries.append(
                Entry(
                    id=file or f"{name} row {number}",
                    source=file,
                    text=text,
                    speaker=self._speakers.setdefault(speaker, speaker),
                    split=split,
                )
            )

    def entries(self) -> tuple[Entry, ...]:
        unique: dict[str, Entry] = {}
        for split in SPLITS:
            for entry in self.of.get(split, []):
                unique.setdefault(entry.id, entry)
        return tuple(unique.values())


def open_folder(folder: Path, language: str) -> Corpus:
    """Open the release in `folder`. Raises CorpusError if its tables cannot be read."""
    root = find_root(folder, language)
    tables = _Tables()
    for split in SPLITS:
        path = root / f"{split}.tsv"
        if path.is_file():
            with path.open("rb") as file:
                tables.add(split, file, language)
    return Corpus(tables.entries(), FileReader(root / CLIPS))


def find_root(folder: Path, language: str) -> Path:
    """The folder with the tables: `folder`, or a folder in it that is named for the language.

    Raises UsageError if that folder is of another language, CorpusError if it is missing.
    """
    if _has_tables(folder):
        if is_locale(folder.name) and not is_locale_of(folder.name, language):
            raise _other_language(folder, folder.name, language)
        return folder
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and _has_tables(path))
    for path in inner:
        if is_locale_of(path.name, language):
            return path
    if inner:
        raise _other_language(folder, ", ".join(path.name for path in inner), language)
    raise CorpusError(
        f"corpus: {folder} is not a Common Voice release: no train.tsv in it or one folder below"
    )


def _has_tables(folder: Path) -> bool:
    return any((folder / f"{split}.tsv").is_file() for split in SPLITS)


def open_archive(path: Path, language: str, tick: Tick | None = None) -> Corpus:
    """Open the release in a tar archive.

    Reads the whole archive once, because the tables may come after the clips. `tick` is called at
    every file. Raises CorpusError for a damaged archive, UsageError for another language.
    """
    archive = Archive(path)
    tables = _Tables()
    root: PurePosixPath | None = None
    others: dict[str, None] = {}
    for name, member, tar in archive.members():
        if tick:
            tick()
        if name.suffix != ".tsv" or name.stem not in SPLITS:
            continue
        locale = name.parent.name
        if is_locale(locale) and not is_locale_of(locale, language):
            others[locale] = None
        elif root in (None, name.parent):
            root = name.parent
            with archive.stream(tar, member, MAX_TABLE_BYTES) as file:
                tables.add(name.stem, file, language)
    if root is None and others:
        raise _other_language(path, ", ".join(others), language)
    if root is None:
        raise CorpusError(f"corpus: {path} is not a Common Voice release: no train.tsv in it")
    return Corpus(tables.entries(), ArchiveReader(path, root / CLIPS))


@dataclass(frozen=True)
class ArchiveReader:
    """Reads audio from a tar archive, in its order. Clips with missing audio come last."""

    path: Path
    clips: PurePosixPath

    def read(self, entries: list[Entry]) -> Iterator[Clip]:
        wanted = {entry.source: entry for entry in entries if entry.source}
        archive = Archive(self.path)
        for name, member, tar in archive.members() if wanted else ():
            if name.parent != self.clips or name.name not in wanted:
                continue
            entry = wanted.pop(name.name)
            audio = archive.read(tar, member, MAX_AUDIO_BYTES)
            yield Clip(entry.id, audio, entry.text, entry.speaker, entry.split)
            if not wanted:
                break
        for entry in entries:
            if not entry.source or entry.source in wanted:
                yield Clip(entry.id, b"", entry.text, entry.speaker, entry.split)


def check_archive(path: Path, language: str) -> None:
    """Check by the first members that the archive is a release in this language.

    Raises CorpusError or UsageError if it is not.
    """
    for number, (name, _, _) in enumerate(Archive(path).members()):
        folder = name.parent.parent if name.parent.name == CLIPS else name.parent
        if name.parent.name == CLIPS or name.suffix == ".tsv":
            if is_locale(folder.name) and not is_locale_of(folder.name, language):
                raise _other_language(path, folder.name, language)
            return
        if number >= MEMBERS_TO_CHECK:
            break
    raise CorpusError(
        f"corpus: {path} is not a Common Voice release: neither clips nor tables first"
    )


def _check_locale(locale: str, language: str, table: str) -> None:
    if is_locale(locale) and not is_locale_of(locale, language):
        raise _other_language(table, locale, language)


def _other_language(what: object, found: str, language: str) -> UsageError:
    return UsageError(f"corpus: {what} is of {found}, but the job's language is {language}")
