"""What names of files, folders and columns tell about clips: their splits, files and roles."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from lorajob.corpora.clip import SPLIT_NAMES, SPLITS
from lorajob.corpora.place import Place
from lorajob.corpora.spelling import AUDIO_SUFFIXES
from lorajob.corpora.trees import join


def split_name(name: str) -> str:
    """The split of a `split` column: `Validation` is dev. Unknown names stay."""
    plain = name.strip().lower()
    return SPLIT_NAMES.get(plain, plain)


def split_of(name: str) -> str | None:
    """The split in the name of a table: `hi_train_manifest` is train; None if unclear."""
    found = {split_name(word) for word in re.split(r"[^a-z]+", name.lower())} & {*SPLITS}
    return found.pop() if len(found) == 1 else None


def split_of_folders(path: str) -> str | None:
    """The split in the names of a path's folders: `train-clean-100` is train, `latest-test` none.

    The innermost folder that begins with the name of a split counts.
    """
    for name in reversed(path.split("/")):
        split = split_name(re.split(r"[^a-z]+", name.lower())[0])
        if split in SPLITS:
            return split
    return None


def is_audio(name: str) -> bool:
    """Whether a file's name has a suffix of audio or video."""
    return PurePosixPath(name).suffix.lower() in AUDIO_SUFFIXES


def stem(name: str) -> str:
    """A name without folder and suffix."""
    return PurePosixPath(name).stem


def locate(place: Place, folder: str, name: str) -> str:
    """The file that a table in `folder` means by `name`, relative to the place.

    A name is relative to the table, or to a folder above it, in which the corpus was made. If no
    such file exists, it is the first of these.
    """
    if not name or name.startswith("/"):
        return name
    parts = name.split("/")
    candidates = [join(folder, name)]
    above = PurePosixPath(folder) if folder else None
    while above is not None and above.parts:
        above = above.parent
        candidates.append(join("" if str(above) == "." else str(above), name))
    own = folder.rpartition("/")[2] or place.name
    if own in parts[:-1]:
        candidates.append(join(folder, "/".join(parts[parts.index(own) + 1 :])))
    return next((it for it in candidates if place.has(it)), candidates[0])


def column(place: Place, role: str, names: Sequence[str]) -> Sequence[str]:
    """The names of a column that may hold `role`: the one that the user mapped, else `names`."""
    mapped = place.columns.get(role)
    return (mapped.strip().lower(),) if mapped else names
