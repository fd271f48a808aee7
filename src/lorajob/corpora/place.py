"""Where a corpus lies: the view that readers have of its files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO

from lorajob.corpora.archive import ARCHIVES, MAX_RECORDING_BYTES
from lorajob.corpora.clip import SPLIT_NAMES, SPLITS, AudioSource, Columns, Tick
from lorajob.corpora.entries import Entry
from lorajob.corpora.trees import FolderTree, Tree, join, open_tree


@dataclass(frozen=True)
class Place:
    """The files of a corpus. Names are relative to `root`, a folder of the tree.

    `table` is set if the corpus was given by the path of a table and not of a folder or archive.
    """

    tree: Tree
    root: str = ""
    table: str | None = None
    # What the user says about columns: role, such as text -> name of the column
    columns: Columns = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The path that was given, for messages."""
        return self.tree.path / self.table if self.table else self.tree.path

    @property
    def name(self) -> str:
        """The name of the folder `root`; "" at the top of an archive."""
        if self.root:
            return PurePosixPath(self.root).name
        return self.tree.path.name if isinstance(self.tree, FolderTree) else ""

    @property
    def whole(self) -> bool:
        """Whether all files are known, or only the first of an archive."""
        return self.tree.whole

    def files(self, folder: str = "") -> list[str]:
        """The names of the files in a folder, sorted."""
        return self.tree.files(self._inner(folder))

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders in a folder, sorted."""
        return self.tree.folders(self._inner(folder))

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self.tree.has(self._inner(name))

    def walk(self, folder: str = "") -> Iterator[str]:
        """The names of all files below a folder, folder by folder, sorted."""
        prefix = f"{folder}/" if folder else ""
        yield from (f"{prefix}{name}" for name in self.files(folder))
        for name in self.folders(folder):
            yield from self.walk(f"{prefix}{name}")

    def open(self, name: str) -> IO[bytes]:
        """A file that is not audio. Raises CorpusError if it is missing."""
        return self.tree.open(self._inner(name))

    def local(self, name: str) -> Path | None:
        """The path of a file on this disk; None in an archive."""
        found = self.tree.path / self._inner(name)
        return found if isinstance(self.tree, FolderTree) else None

    def stamp(self, name: str) -> str:
        """Changes with a file's content: its size and times of change."""
        entry = Entry("", name, "", "", "")
        return self.tree.audio(self.root).stamp(entry)

    def audio(self, folder: str = "", max_bytes: int = MAX_RECORDING_BYTES) -> AudioSource:
        """The source of audio whose names are relative to `folder`."""
        return self.tree.audio(self._inner(folder), max_bytes)

    def below(self, folder: str) -> "Place":
        """The place of a folder in this one."""
        return Place(self.tree, self._inner(folder), columns=self.columns)

    def _inner(self, name: str) -> str:
        if not name:
            return self.root
        return join(self.root, name)


def open_place(
    path: Path,
    tick: Tick | None = None,
    seconds: float = 0.0,
    columns: Columns = MappingProxyType({}),
) -> Place:
    """The place of a corpus at a path, as `place_of`.

    `seconds` limit the time that a large archive takes. Raises CorpusError for a damaged archive.
    """
    if not path.is_dir() and not is_archive(path):
        return Place(FolderTree(path.parent), table=path.name, columns=columns)
    return place_of(open_tree(path, tick, seconds), columns)


def place_of(tree: Tree, columns: Columns = MappingProxyType({})) -> Place:
    """The place of a corpus in a tree. Folders that hold nothing but one folder are passed over."""
    place = Place(tree, columns=columns)
    while not place.files() and len(inner := place.folders()) == 1 and not _is_split(inner[0]):
        place = place.below(inner[0])
    return place


def is_archive(path: Path) -> bool:
    """Whether a path is a file with an archive's name."""
    return path.is_file() and path.name.lower().endswith(ARCHIVES)


def _is_split(name: str) -> bool:
    return name.lower() in SPLITS or name.lower() in SPLIT_NAMES
