"""Lists a folder of a corpus, without hidden files and without links that have no end."""

import os
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import CorpusError


@dataclass(frozen=True)
class Listing:
    """The names of the files and of the folders in a folder, sorted."""

    files: list[str]
    folders: list[str]


def list_folder(path: Path) -> Listing:
    """The names in a folder. A link to a folder above it is left out: it would have no end."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(path) as found:
            for it in found:
                if is_hidden(it.name):
                    continue
                if it.is_file():
                    files.append(it.name)
                elif it.is_dir() and not (it.is_symlink() and _is_above(Path(it.path), path)):
                    folders.append(it.name)
    except OSError as error:
        raise CorpusError(f"corpus: {path} cannot be listed: {error.strerror}") from None
    return Listing(sorted(files), sorted(folders))


def _is_above(link: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(link.resolve())


def is_hidden(name: str) -> bool:
    """Whether a name, or a folder in it, is hidden or made by macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
