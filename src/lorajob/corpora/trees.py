"""The files of a corpus, the same for a folder, a tar archive and a zip archive.

Hidden files and what macOS adds to archives are left out. An archive is never unpacked: tables of a
tar archive are copied to a temporary file when the archive is scanned, audio is read as it comes. A
file with another suffix than those of tables is copied when a reader opens it.
"""

import io
import os
import stat
import time
import unicodedata
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import numpy as np

from lorajob.corpora.archive import (
    FREE_BYTES,
    MAX_MEMBERS,
    MAX_RATIO,
    MAX_RECORDING_BYTES,
    MAX_TABLE_BYTES,
    Archive,
    CutOffError,
)
from lorajob.corpora.clip import AudioSource, Clip, Tick
from lorajob.corpora.copies import Copies
from lorajob.corpora.entries import Entry, by_key, by_recording
from lorajob.corpora.ids import hashed
from lorajob.corpora.listing import Listing, is_hidden, list_folder
from lorajob.corpora.spelling import FILE_URL, by_folded, folded, spellings
from lorajob.errors import CorpusError, UsageError

# Of the files that are copied from a tar archive when it is scanned. Others cost a second scan.
TABLE_SUFFIXES = frozenset(
    {".tsv", ".csv", ".jsonl", ".json", ".txt", ".srt", ".vtt", ".textgrid", ".eaf", ".lab", ".scp"}
    | {".parquet", ".arrow"}
)
KALDI_TABLES = frozenset({"text", "segments", "utt2spk", "spk2utt", "utt2dur", "reco2dur"})
MAX_LIKE_BYTES = 256 << 20  # of files that are copied beside the one that a reader opens
KEPT_LISTINGS = 16  # of folders
EMPTY_FILE = "not audio"  # 0 bytes, as `speech.audio` calls it


class Tree(Protocol):
    """Files by name. A name is relative and has / between its parts, as in `clips/a.mp3`."""

    @property
    def path(self) -> Path:
        """The folder or archive, for messages."""
        ...

    @property
    def whole(self) -> bool:
        """Whether all files are known. Of an archive, a quick look may have seen the first ones."""
        ...

    def files(self, folder: str = "") -> list[str]:
        """The names of the files in a folder, sorted, without the folder's own name."""
        ...

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders in a folder, sorted, without the folder's own name."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """A file that is not audio, which the source of `audio` reads.

        Raises CorpusError if it is missing.
        """
        ...

    def audio(self, folder: str, max_bytes: int = MAX_RECORDING_BYTES) -> AudioSource:
        """The source of audio whose names are relative to `folder`.

        In an archive, larger files raise CorpusError.
        """
        ...


def join(folder: str, name: str) -> str:
    """The name of a file in a folder, without `.` and `..`; an absolute name stays absolute."""
    absolute = name.startswith(("/", FILE_URL))
    return os.path.normpath(f"{folder}/{name}" if folder and not absolute else name)


@dataclass(frozen=True)
class FolderTree:
    """The files below a folder."""

    path: Path
    whole: bool = True
    # The folders listed last, because several readers look at the same ones.
    _listed: dict[str, Listing] = field(default_factory=dict, compare=False, repr=False)

    def files(self, folder: str = "") -> list[str]:
        return self._list(folder).files

    def folders(self, folder: str = "") -> list[str]:
        return self._list(folder).folders

    def _list(self, folder: str) -> Listing:
        if folder not in self._listed:
            if len(self._listed) >= KEPT_LISTINGS:
                self._listed.clear()
            self._listed[folder] = list_folder(self.path / folder)
        return self._listed[folder]

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self.path / name).open("rb")
        except FileNotFoundError:
            raise CorpusError(f"{self.path / name}: no such file") from None

    def audio(self, folder: str, max_bytes: int = MAX_RECORDING_BYTES) -> AudioSource:
        return FolderAudio(self.path / folder)


@dataclass(frozen=True)
class FolderAudio:
    """Audio in files. A name may be absolute."""

    folder: Path
    # Folder -> its files by their folded names
    _folded: dict[Path, dict[str, str]] = field(default_factory=dict, compare=False, repr=False)

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        for source, group in by_recording(entries):
            audio = self._path(source) if source else b""
            yield from (Clip.of(entry, audio) for entry in group)

    def _path(self, source: str) -> Path:
        """The file of that name, however its name is spelt; the first spelling if none is there."""
        paths = (self.folder / it for it in spellings(source))
        found = next((path for path in paths if path.is_file()), None)
        return found or self._in_other_case(self.folder / source)

    def _in_other_case(self, path: Path) -> Path:
        folder = path.parent
        if folder not in self._folded:
            try:
                self._folded[folder] = by_folded(it.name for it in folder.iterdir())
            # The folder may be missing, or its name have characters that no folder can have.
            except (OSError, ValueError):
                self._folded[folder] = {}
        return folder / self._folded[folder].get(folded(path.name), path.name)

    def stamp(self, entry: Entry) -> str:
        path = self._path(entry.source)
        try:
            found = path.stat() if entry.source else None
        # A name may have characters that no file can have.
        except (OSError, ValueError):
            found = None
        if found is None:
            return f"{path} missing"
        return f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


class _Index:
    """Folders and files of an archive, by name."""

    def __init__(self) -> None:
        self._files: dict[str, dict[str, None]] = {"": {}}
        self._folders: dict[str, set[str]] = {"": set()}
        # Folder -> its files by their folded names
        self._folded: dict[str, dict[str, str]] = {}

    def add(self, name: str) -> None:
        folder, _, file = name.rpartition("/")
        if folder not in self._files:
            self._add_folder(folder)
        self._files[folder][file] = None

    def _add_folder(self, folder: str) -> None:
        while folder not in self._files:
            parent, _, name = folder.rpartition("/")
            self._files[folder] = {}
            self._folders.setdefault(folder, set())
            self._folders.setdefault(parent, set()).add(name)
            folder = parent

    def files(self, folder: str = "") -> list[str]:
        return sorted(self._files.get(folder, ()))

    def folders(self, folder: str = "") -> list[str]:
        return sorted(self._folders.get(folder, ()))

    def has(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        return file in self._files.get(folder, ())

    def find(self, folder: str, source: str) -> str | None:
        """The file that `source` names in a folder, however it is spelt; None without one."""
        names = (join(folder, it) for it in spellings(source))
        found = next((name for name in names if self.has(name)), None)
        if found is not None:
            return found
        place, _, file = join(folder, source).rpartition("/")
        if place not in self._folded:
            self._folded[place] = by_folded(self._files.get(place, ()))
        other = self._folded[place].get(folded(file))
        return None if other is None else join(place, other)


class TarTree(_Index):
    """The files of a tar archive. Raises CorpusError if it is damaged or reaches outside itself.

    `tick` is called at every file. With `seconds`, the scan ends after that time; `whole` then says
    whether it has seen all. The file may be only the `beginning` of an archive.
    """

    def __init__(
        self,
        path: Path,
        tick: Tick | None = None,
        seconds: float = 0.0,
        beginning: bool = False,
    ) -> None:
        super().__init__()
        self.path, self.whole = path, not beginning
        self._tables, self._tick, self._begun = Copies(), tick, False
        try:
            self._scan(seconds)
        except CutOffError:
            # Something that is no archive has no members.
            if not beginning or not self._begun:
                raise

    def _scan(self, seconds: float) -> None:
        archive, start, tick = Archive(self.path), time.monotonic(), self._tick
        for member_name, member, tar in archive.members():
            self._begun = True
            if tick:
                tick()
            name = str(member_name)
            if _is_table(name):
                with archive.stream(tar, member, MAX_TABLE_BYTES) as file:
                    self._tables.add(name, file)
            if not is_hidden(name):
                self.add(name)
            if seconds and time.monotonic() - start > seconds:
                self.whole = False
                break

    def open(self, name: str) -> IO[bytes]:
        if name not in self._tables:
            if not self.has(name):
                raise CorpusError(f"{self.path}: no file {name} in it")
            self._copy_like(name)
        return self._tables.open(name)

    def _copy_like(self, name: str) -> None:
        """Copy a file that no built-in reader reads, and the small ones with its suffix.

        So a reader that opens many such files reads the archive a second time only once.
        """
        archive, suffix, copied = Archive(self.path), PurePosixPath(name).suffix.lower(), 0
        for member_name, member, tar in archive.members():
            if self._tick:
                self._tick()
            found = str(member_name)
            like = PurePosixPath(found).suffix.lower() == suffix and not _is_table(found)
            if found == name or (like and copied + member.size <= MAX_LIKE_BYTES):
                copied += member.size
                with archive.stream(tar, member, MAX_TABLE_BYTES) as file:
                    self._tables.add(found, file)
            if found == name and not self.whole:
                break

    def audio(self, folder: str, max_bytes: int = MAX_RECORDING_BYTES) -> AudioSource:
        return TarAudio(self.path, folder, max_bytes, self)


@dataclass(frozen=True)
class TarAudio:
    """Audio in a tar archive, read in its order. Clips with missing audio come last."""

    path: Path
    folder: str
    max_bytes: int
    index: _Index | None = None  # of its names; a quick look has not seen all

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        order, names = by_key(entries, self._wanted)
        by_name = np.argsort(names, kind="stable")
        waiting = np.array([bool(entry.source) for entry in order], bool)
        archive, left = Archive(self.path), int(waiting.sum())
        for name, member, tar in archive.members() if left else ():
            wanted = np.uint64(hashed(_plain(str(name))))
            first = np.searchsorted(names, wanted, "left", by_name)
            last = np.searchsorted(names, wanted, "right", by_name)
            found = [int(it) for it in by_name[first:last] if waiting[it]]
            if not found:
                continue
            waiting[found] = False
            left -= len(found)
            audio = archive.read(tar, member, self.max_bytes)
            yield from (_clip_of(order[it], audio) for it in found)
            if not left:
                break
        for number, entry in enumerate(order):
            if waiting[number] or not entry.source:
                yield Clip.of(entry, b"")

    def _wanted(self, entry: Entry) -> str:
        """The name of an entry's file in the archive."""
        if not entry.source:
            return ""
        known = self.index.find(self.folder, entry.source) if self.index else None
        return _plain(known or join(self.folder, entry.source))

    def stamp(self, entry: Entry) -> str:
        return entry.source


class ZipTree(_Index):
    """The files of a zip archive. Raises CorpusError as TarTree does.

    `file` is the archive if it is not at `path`, which is then only its name.
    """

    def __init__(self, path: Path, file: IO[bytes] | None = None) -> None:
        super().__init__()
        self.path, self.whole = path, True
        size = path.stat().st_size if file is None else file.seek(0, os.SEEK_END)
        try:
            self._zip = zipfile.ZipFile(path if file is None else file)
        except (zipfile.BadZipFile, EOFError) as error:
            # Its table of contents is at its end, so any part of it is no zip archive.
            raise UsageError(
                f"corpus: {path} is not a whole zip archive ({error});"
                " download it again, or give a tar.gz or a folder"
            ) from None
        weakref.finalize(self, self._zip.close)
        self._members: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        budget = FREE_BYTES + MAX_RATIO * size
        if sum(it.file_size for it in infos) > budget or len(infos) > MAX_MEMBERS:
            raise CorpusError(f"{path}: unpacks to more than a corpus could; refused")
        for info in infos:
            name = self._safe_name(info)
            if not info.is_dir() and not is_hidden(name):
                self._members[name] = info
                self.add(name)

    def _safe_name(self, info: zipfile.ZipInfo) -> str:
        name = info.filename
        # Some programs write UTF-8 without saying so. zipfile then reads it as code page 437.
        if not info.flag_bits & 0x800:
            try:
                name = name.encode("cp437").decode("utf-8")
            except UnicodeError:
                name = info.filename
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise CorpusError(f"{self.path}: {name!r} points outside the archive; refused")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise CorpusError(f"{self.path}: {name!r} is not a plain file or folder; refused")
        if info.flag_bits & 1:
            raise CorpusError(f"{self.path}: {name!r} needs a password; pack it without one")
        return str(PurePosixPath(name))

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.bytes(name, MAX_TABLE_BYTES))

    def bytes(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a file. Raises CorpusError if it is larger, missing or damaged."""
        info = self._members.get(name)
        if info is None:
            raise CorpusError(f"{self.path}: no file {name} in it")
        if info.file_size > max_bytes:
            raise CorpusError(
                f"{self.path}: {name} is {info.file_size:,} bytes; allowed: {max_bytes:,}"
            )
        try:
            return self._zip.read(info)
        except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
            raise CorpusError(
                f"{self.path}: {name} cannot be unpacked ({error}); download the archive again"
            ) from None

    def audio(self, folder: str, max_bytes: int = MAX_RECORDING_BYTES) -> AudioSource:
        return ZipAudio(self, folder, max_bytes)


@dataclass(frozen=True)
class ZipAudio:
    """Audio in a zip archive."""

    tree: ZipTree
    folder: str
    max_bytes: int

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        for source, group in by_recording(entries):
            name = self.tree.find(self.folder, source) if source else None
            if name is None:
                yield from (Clip.of(entry, b"") for entry in group)
                continue
            audio = self.tree.bytes(name, self.max_bytes)
            yield from (_clip_of(entry, audio) for entry in group)

    def stamp(self, entry: Entry) -> str:
        return entry.source


def _plain(name: str) -> str:
    """A name such that all its spellings are equal."""
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _clip_of(entry: Entry, audio: bytes) -> Clip:
    """The clip of a file that is there. Missing audio is empty, so an empty file has a fault."""
    if not audio and not entry.fault:
        entry = replace(entry, fault=EMPTY_FILE)
    return Clip.of(entry, audio)


def open_tree(path: Path, tick: Tick | None = None, seconds: float = 0.0) -> Tree:
    """The files of a folder or an archive. Raises CorpusError for a damaged archive."""
    if path.is_dir():
        return FolderTree(path)
    if path.suffix.lower() == ".zip":
        return ZipTree(path)
    return TarTree(path, tick, seconds)


def _is_table(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in TABLE_SUFFIXES or path.name in KALDI_TABLES
