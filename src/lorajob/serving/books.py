"""The books of requests in a model's process: glossaries, with an index built once for each.

Indexes are built in threads of their own: one for large files, two for long lists of a request's
own terms, and one for all else. The first three wait for other processes, which build the indexes,
so they take no Python lock of decoding. A large file delays only requests that use it, or another
large one for the first time, and these for a limited time: then they use the glossary as it was
before, or go on without it. A request always waits for its own terms. A long list delays only
requests that bring long lists.
"""

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lorajob.book.apart import BuildError, BuildStoppedError, build_apart
from lorajob.book.decode import Book
from lorajob.book.index import TermIndex
from lorajob.book.joined import JoinedIndex
from lorajob.book.terms import MOST_TERMS, decode_glossary, terms_of
from lorajob.errors import LorajobError
from lorajob.serving.models import GlossaryFile

# That a request waits for an index, if there is an older one of the same glossary, and if not.
PATIENCE_SECONDS, FIRST_SECONDS = 2.0, 20.0
RETRY_SECONDS = 300.0  # after the process that builds an index was killed
SMALL_BYTES = 100_000  # of a file whose index takes well under a second
# Of a request's own terms: as much CPU time as to start another process, which builds the index.
SHORT_BYTES = 300_000
MOST_KEPT_TERMS = 3 * MOST_TERMS  # in all indexes of files
MOST_KEPT_LISTS = 32  # indexes of requests' own terms

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenBook:
    """A book with the key that tells its content: requests with one key share batches."""

    key: str
    book: Book


@dataclass(frozen=True)
class _Indexed:
    """An index with the key of its content; None if there are no terms to find.

    `kept` is False if another try may succeed. It is worth one from `retry_at` on, in monotonic
    seconds, if the process that built it was killed.
    """

    key: str
    index: TermIndex | None
    kept: bool = True
    retry_at: float | None = None

    def __len__(self) -> int:
        return 0 if self.index is None else len(self.index)


Use = Callable[[OpenBook | None], None]
_Key = tuple[str, str]  # hash of the content, language


class BookShelf:
    """The indexes of a process. Methods may be called from any thread."""

    def __init__(self) -> None:
        # Small files and short lists wait for no large ones.
        self._large = ThreadPoolExecutor(1, "large-glossaries")
        self._long = ThreadPoolExecutor(2, "long-lists")
        self._small = ThreadPoolExecutor(1, "glossaries")
        self._files: OrderedDict[_Key, Future[_Indexed]] = OrderedDict()
        self._lists: OrderedDict[_Key, Future[_Indexed]] = OrderedDict()
        self._latest: dict[_Key, _Key] = {}  # (name, language) -> the newest that is complete
        self._lock = threading.RLock()

    def open(
        self, files: Sequence[GlossaryFile], terms: Sequence[str], language: str, use: Use
    ) -> None:
        """Call `use` once with a book of these glossaries, at once or from another thread.

        It is called with None if they have no terms. A file that cannot be read is logged and left
        out, and so is one whose first index takes too long: the language is still served. The
        request's own terms are valid already.
        """
        wanted: list[Future[_Indexed]] = []
        meanwhile: list[Future[_Indexed]] = []
        patience = PATIENCE_SECONDS
        with self._lock:
            for it in files:
                found, older = self._index_of_file(it, language)
                if older is not None and _is_off(found):
                    found = older
                if older is None and not found.done():
                    patience = FIRST_SECONDS
                wanted.append(found)
                meanwhile.append(found if found.done() else older or _left_out(it))
            if terms:
                own = self._index_of_list(terms, language)
                wanted.append(own)
                meanwhile.append(own)
        _Waiting(wanted, meanwhile, language, use).begin(patience)

    def _index_of_file(
        self, file: GlossaryFile, language: str
    ) -> tuple["Future[_Indexed]", "Future[_Indexed] | None"]:
        """The index of a file, and that of its newest complete version."""
        key, place = (file.sha256, language), (file.name, language)
        known = self._files.get(key)
        if known is None or _is_off(known, time.monotonic()):
            thread = self._small if _is_small(file) else self._large
            known = self._files[key] = thread.submit(_index_of_file, file, language)
            known.add_done_callback(lambda built: self._built(place, key, built))
        else:
            self._files.move_to_end(key)
            # Also a version that was used before and is back.
            if known.done() and not _is_off(known):
                self._latest[place] = key
        latest = self._latest.get(place)
        return known, None if latest is None else self._files.get(latest)

    def _index_of_list(self, terms: Sequence[str], language: str) -> "Future[_Indexed]":
        # A file may have the same bytes and other terms: it has comments.
        digest = f"terms {hashlib.sha256(chr(10).join(terms).encode()).hexdigest()}"
        key = digest, language
        known = self._lists.get(key)
        if known is None or (known.done() and not known.result().kept):
            thread = self._long if _is_long(terms) else self._small
            self._lists[key] = thread.submit(_index_of_list, digest, terms, language)
        self._lists.move_to_end(key)
        while len(self._lists) > MOST_KEPT_LISTS:
            self._lists.popitem(last=False)
        return self._lists[key]

    def _built(self, place: _Key, key: _Key, built: "Future[_Indexed]") -> None:
        """Note a complete index, and drop those that were unused longest."""
        with self._lock:
            if not built.result().kept:
                self._files.pop(key, None)
                return
            if _is_off(built):
                return
            self._latest[place] = key
            sizes = {it: len(one.result()) for it, one in self._files.items() if one.done()}
            for old in [it for it in sizes if it != key]:
                if sum(sizes.values()) <= MOST_KEPT_TERMS:
                    break
                del self._files[old], sizes[old]
            self._latest = {it: at for it, at in self._latest.items() if at in self._files}


class _Waiting:
    """A request that waits for its indexes, or after some time takes what there is meanwhile."""

    def __init__(
        self,
        wanted: Sequence["Future[_Indexed]"],
        meanwhile: Sequence["Future[_Indexed]"],
        language: str,
        use: Use,
    ) -> None:
        self._wanted, self._meanwhile = wanted, meanwhile
        self._language, self._use = language, use
        self._lock = threading.Lock()
        self._used = self._late = False

    def begin(self, patience: float) -> None:
        """Go on at once if all is complete, else when it is, or about `patience` seconds later."""
        if not all(it.done() for it in self._wanted):
            timer = threading.Timer(patience, self._hurry)
            timer.daemon = True
            timer.start()
        # A future that is complete calls at once.
        for future in self._wanted:
            future.add_done_callback(lambda _: self._look())
        self._look()

    def _hurry(self) -> None:
        self._late = True
        self._look()

    def _look(self) -> None:
        both = zip(self._wanted, self._meanwhile, strict=True)
        chosen: Sequence[Future[_Indexed]] = [older if _is_off(it) else it for it, older in both]
        if not all(it.done() for it in chosen):
            chosen = self._meanwhile
            if not self._late or not all(it.done() for it in chosen):
                return
        with self._lock:
            if self._used:
                return
            self._used = True
        self._use(_book(chosen, self._language))


def _book(chosen: Sequence["Future[_Indexed]"], language: str) -> OpenBook | None:
    found = [it for it in (future.result() for future in chosen) if len(it)]
    indexes = [it.index for it in found if it.index is not None]
    if not indexes:
        return None
    index = indexes[0] if len(indexes) == 1 else JoinedIndex(indexes)
    return OpenBook("+".join(it.key for it in found), Book(language, index))


def _is_off(built: "Future[_Indexed]", now: float | None = None) -> bool:
    """Whether an index was not built because its process was killed, and may be tried `now`."""
    retry_at = built.result().retry_at if built.done() else None
    return retry_at is not None and (now is None or now >= retry_at)


def _left_out(file: GlossaryFile) -> "Future[_Indexed]":
    """What a request uses in the place of a file whose first index takes too long."""
    found: Future[_Indexed] = Future()
    found.set_result(_Indexed(f"without {file.name}", None))
    return found


def _is_small(file: GlossaryFile) -> bool:
    try:
        return file.path.stat().st_size <= SMALL_BYTES
    except OSError:  # is logged when it is read
        return True


def _is_long(terms: Sequence[str]) -> bool:
    return sum(len(it.encode()) for it in terms) > SHORT_BYTES


def _index_of_file(file: GlossaryFile, language: str) -> _Indexed:
    """The index of a file; without one if it cannot be read, which is logged."""
    try:
        return _Indexed(file.sha256, _build(file, language))
    except OSError as error:
        log.error("the glossary of %s is not used: %s", file.name, error)
        return _Indexed(file.sha256, None, kept=False)
    # Here the same work could end this process, and the requests that it answers.
    except BuildStoppedError as error:
        minutes = RETRY_SECONDS / 60
        log.error("the glossary of %s is not used for %.0f min: %s", file.name, minutes, error)
        return _Indexed(file.sha256, None, retry_at=time.monotonic() + RETRY_SECONDS)
    except (LorajobError, ValueError) as error:
        log.error("the glossary of %s is not used: %s", file.name, error)
    # A bug must not end the thread's work for all others.
    except Exception:
        log.exception("the glossary of %s is not used", file.name)
    return _Indexed(file.sha256, None)


def _build(file: GlossaryFile, language: str) -> TermIndex:
    if not _is_small(file):
        built = _built_apart(file.path, language, f"the glossary of {file.name} is")
        if built is not None:
            return built
    return TermIndex(decode_glossary(file.path.read_bytes()), language)


def _built_apart(source: Path | bytes, language: str, what: str) -> TermIndex | None:
    """The index that another process built, or None if it failed, which is logged.

    Raises BuildStoppedError, and what `build_apart` raises for the terms.
    """
    try:
        return build_apart(source, language)
    except BuildStoppedError:
        raise
    except BuildError as error:
        log.warning("%s indexed here: %s", what, error)
        return None
    except OSError as error:
        if isinstance(source, Path):  # the file may be unreadable
            raise
        log.warning("%s indexed here: no process could be started: %s", what, error)
        return None


def _index_of_list(key: str, terms: Sequence[str], language: str) -> _Indexed:
    try:
        glossary, built = terms_of(terms), None
        if _is_long(terms):
            what = "the terms of a request are"
            built = _built_apart(glossary.text().encode(), language, what)
        return _Indexed(key, TermIndex(glossary, language) if built is None else built)
    except BuildStoppedError as error:
        log.error("the terms of a request are not used: %s", error)
        return _Indexed(key, None, kept=False)
    except Exception:
        log.exception("the terms of a request are not used")
        return _Indexed(key, None)
