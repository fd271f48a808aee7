"""Other ways to write the name of an audio file: tables and disks spell it differently."""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote

# The most usual ones first: a name without suffix is looked for with each in turn.
AUDIO_SUFFIXES = (
    *(".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".oga", ".aac", ".wma", ".aiff", ".aif"),
    *(".amr", ".caf", ".au", ".sph", ".mp4", ".webm", ".3gp", ".mka", ".mkv", ".mov"),
    *(".avi", ".mpg", ".mpeg", ".mts", ".flv", ".wv", ".ac3"),
)
FILE_URL = "file:"


def spellings(name: str) -> Iterator[str]:
    """A file's name, then other ways to write it.

    They are Unicode composed or not, Windows' separators, the path of a URL (`file:///a%20b.wav`),
    the suffix in the other case, and a suffix of audio if the name has none.
    """
    yield name
    seen = {name}
    plain = name.replace("\\", "/").strip()
    path = _path_of_url(plain)
    for other in (name, plain, path, *_with_suffixes(path)):
        for form in ("NFC", "NFD"):
            found = other if other.isascii() else unicodedata.normalize(form, other)
            if found not in seen:
                seen.add(found)
                yield found


def by_folded(names: Iterable[str]) -> dict[str, str]:
    """Names by what `folded` makes of them. Those that are then equal are left out."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(folded(name), []).append(name)
    return {key: same[0] for key, same in found.items() if len(same) == 1}


def folded(name: str) -> str:
    """A name without the difference of upper and lower case."""
    return unicodedata.normalize("NFC", name).casefold()


def _path_of_url(name: str) -> str:
    if name.startswith(FILE_URL):
        name = name.removeprefix(FILE_URL)
        if name.startswith("//"):
            name = f"/{name[2:].partition('/')[2]}"
    return unquote(name)


def _with_suffixes(name: str) -> Iterator[str]:
    suffix = PurePosixPath(name).suffix
    if suffix.lower() in AUDIO_SUFFIXES:
        stem = name.removesuffix(suffix)
        yield from (stem + suffix.lower(), stem + suffix.upper())
    elif name and not name.endswith("/"):
        yield from (name + other for other in AUDIO_SUFFIXES)
        yield from (name + other.upper() for other in AUDIO_SUFFIXES)
