"""Files of text, of this machine or behind a url, and texts of the Hub's data sets.

A url is downloaded into LORAJOB_HOME/corpora, as a corpus is: once, resumed, and removed when room
is needed. `hf:OWNER/NAME?config=...&split=...&column=text` writes a column of a data set to
CORPORA/KEY/data/text.gz.
"""

import fcntl
import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl, urlencode

from lorajob.corpora import hub
from lorajob.corpora.remote import DATA, Remote, fetch_file, fetch_named
from lorajob.errors import UsageError
from lorajob.storage import places
from lorajob.storage.folders import locked
from lorajob.storage.store import Check, Store, unhurried
from lorajob.storage.urls import is_named, local_path, public

MOST_BYTES = 4 << 30  # of a file behind a url, and of the texts of a data set
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "raw_transcription")
COLUMN = "column"


def text_file(place: str, check: Check = unhurried) -> Path:
    """The file of text at a path or url, on this machine. `check` is called during a download.

    Raises UsageError if there is no such file, if it has over 4 GB behind a url, and for a path
    that cannot exist; StoreError if the server is unavailable.
    """
    path = local_path(place)
    if path is not None:
        return _own(path)
    if is_named(place):
        if not place.startswith(hub.SCHEME):
            raise UsageError(f"{place} names no text; give a file, a url or hf:OWNER/NAME")
        source = HubTexts()
        source.check(place)
        return fetch_named(RemoteText(place), source, check)
    if Store(place).info() is None:
        raise UsageError(f"{public(place)} does not exist")
    return fetch_file(RemoteText(place), check, MOST_BYTES)


@contextmanager
def text_in_use(place: str) -> Iterator[Path]:
    """As `text_file`. While the block runs, no other process removes or replaces the copy."""
    if local_path(place) is not None:
        yield text_file(place)
        return
    while True:
        path = text_file(place)
        with locked(RemoteText(place).lock("use"), fcntl.LOCK_SH):
            # It may have been removed before the lock was held.
            if path.is_file():
                yield path
                return


def _own(path: Path) -> Path:
    try:
        found = path.expanduser().resolve()
        # A device or a pipe may have no end.
        if not found.is_file():
            raise UsageError(f"{str(found)[:200]} is no file on this machine")
    except (RuntimeError, ValueError) as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{str(path)[:80]!r}: {error.strerror or error}") from None
    return found


@dataclass(frozen=True)
class RemoteText(Remote):
    """The url of a text, and where its copy is on this machine: not where a corpus would be."""

    kind: ClassVar[str] = "text"
    # Texts may begin with another tag, such as <doc>.
    page: ClassVar[tuple[bytes, ...]] = (b"<!doctype html", b"<html")

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(f"text {self.url}".encode()).hexdigest()
        return places.corpora() / digest[:20]

    @property
    def path(self) -> Path:
        return self.folder / DATA / "text.gz" if is_named(self.url) else self.folder / "text"


class HubTexts:
    """A catalogue: a column of a data set of the Hub, as a file with a text a line."""

    def check(self, url: str) -> None:
        """As `hub.check`."""
        hub.check(_parts(url)[0])

    def version(self, url: str) -> str:
        """The commit of the data set."""
        return hub.version(_parts(url)[0])

    def download(self, url: str, folder: Path, check: Check) -> None:
        """Write the texts. Raises UsageError for a missing column and for over 4 GB."""
        plain, column = _parts(url)
        count = 0
        with gzip.GzipFile(folder / "text.gz", "wb", mtime=0) as file:
            for text in hub.column_texts(plain, (column,) if column else TEXT_COLUMNS):
                check()
                data = "".join(f"{it}\n" for it in text.splitlines()).encode("utf-8", "replace")
                count += len(data)
                if count > MOST_BYTES:
                    raise _too_large(url)
                file.write(data)


def _parts(url: str) -> tuple[str, str | None]:
    """The url of the data set, and the column. Raises UsageError for another parameter."""
    hub.parse(url, (*hub.PARAMETERS, COLUMN))
    name, _, query = url.partition("?")
    values = dict(parse_qsl(query, keep_blank_values=True))
    column = values.pop(COLUMN, None)
    return (f"{name}?{urlencode(values, safe=',/')}" if values else name), column or None


def _too_large(url: str) -> UsageError:
    """The error for a text of more than `MOST_BYTES`."""
    return UsageError(f"{public(url)} has over {MOST_BYTES >> 30} GB; give a part of it")
