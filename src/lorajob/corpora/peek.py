"""A short look at a corpus behind a url: its first megabytes, or its table of contents."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import IO, TypeVar

from lorajob.corpora.clip import AudioSource, Columns
from lorajob.corpora.place import Place, place_of
from lorajob.corpora.remote import Remote
from lorajob.corpora.trees import TarTree, ZipTree
from lorajob.errors import CorpusError, LorajobError
from lorajob.storage.store import Store, StoreError, store_errors
from lorajob.storage.urls import is_named, public

PEEK_BYTES = 8 << 20  # most bytes of a tar archive
BLOCK_BYTES = 256 << 10  # read at once
LEAST_BYTES = 64 << 10  # in which an archive shows that it is one

Found = TypeVar("Found")
Look = Callable[[Place], Found | None]


def peek(url: str, seconds: float, columns: Columns, look: Look[Found]) -> Found | None:
    """What `look` finds in a corpus behind a url; None if `seconds` show too little of it.

    Of a tar archive, `look` gets its first files. The place is `whole` if these are all. A zip
    archive or a Parquet file lists its contents at its end; `look` may open all of it. A data set
    that is named, such as hf:OWNER/NAME, is not looked at.

    Raises what `look` raises, and UsageError or CorpusError if at the url is no such file.
    """
    if is_named(url):
        return None
    store, name = Store(url), Remote(url).name
    if name.lower().endswith((".zip", ".parquet")):

        def work() -> Found | None:
            place = _by_contents(store, name, columns)
            return None if place is None else look(place)

        return within(seconds, work)
    data, deadline = _Beginning(), time.monotonic() + seconds
    within(seconds, lambda: data.read(store, deadline))
    # In this order: the reading thread may still add bytes before it sets `complete`.
    complete = data.complete
    got = bytes(data.got)
    if not complete and len(got) < LEAST_BYTES:
        return None
    with TemporaryDirectory(prefix="lorajob-peek-") as folder:
        path = Path(folder, name)
        path.write_bytes(got)
        try:
            return look(place_of(TarTree(path, beginning=not complete), columns))
        except LorajobError as error:
            # The name of the copy says nothing.
            raise type(error)(str(error).replace(str(path), public(url))) from None


def within(seconds: float, work: Callable[[], Found | None]) -> Found | None:
    """What `work` returns, or None if it takes longer or the server fails. Raises as it does.

    A server may hang in any read, so the work has a thread of its own.
    """
    answers: SimpleQueue[tuple[Found | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        # Passed on to the thread that waits.
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = answers.get(timeout=seconds)
    except Empty:
        return None
    # The worker meets a failing server with more patience.
    if error is None or isinstance(error, StoreError | OSError):
        return found
    raise error


@dataclass
class _Beginning:
    """The first bytes of a file."""

    got: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def read(self, store: Store, deadline: float) -> None:
        """Read at most PEEK_BYTES until the deadline."""
        try:
            self._read(store, deadline, BLOCK_BYTES)
        # The web server can only send the file from its beginning.
        except ValueError:
            self.got.clear()
            self._read(store, deadline, 0)

    def _read(self, store: Store, deadline: float, block_bytes: int) -> None:
        with store_errors(store.url):
            file = store.fs.open(store.key(""), "rb", block_size=block_bytes)
        with file:
            while len(self.got) < PEEK_BYTES and time.monotonic() < deadline:
                with store_errors(store.url):
                    chunk = file.read(BLOCK_BYTES)
                if not chunk:
                    self.complete = True
                    return
                self.got += chunk


def _by_contents(store: Store, name: str, columns: Columns) -> Place | None:
    """The place of a file whose contents are listed at its end."""

    def opened() -> IO[bytes]:
        with store_errors(store.url):
            file: IO[bytes] = store.fs.open(store.key(""), "rb", block_size=BLOCK_BYTES)
        return file

    try:
        with opened() as file:
            if not file.seekable():
                return None
        if name.lower().endswith(".zip"):
            return place_of(ZipTree(Path(name), opened()), columns)
        return Place(OneFile(Path(name), opened), table=name, columns=columns)
    # The web server can only send the file from its beginning.
    except ValueError:
        return None


@dataclass(frozen=True)
class OneFile:
    """A tree of one file that lies elsewhere."""

    path: Path
    opened: Callable[[], IO[bytes]]
    whole: bool = True

    def files(self, folder: str = "") -> list[str]:
        return [] if folder else [self.path.name]

    def folders(self, folder: str = "") -> list[str]:
        return []

    def has(self, name: str) -> bool:
        return name == self.path.name

    def open(self, name: str) -> IO[bytes]:
        return self.opened()

    def audio(self, folder: str, max_bytes: int = 0) -> AudioSource:
        raise CorpusError(f"{self.path}: its audio is read when it is downloaded")
