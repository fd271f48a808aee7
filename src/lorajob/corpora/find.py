"""Finds and opens the corpus at a path, or the newest corpus of a language."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from lorajob.corpora.archive import ARCHIVES
from lorajob.corpora.clip import Columns, Corpus, Tick
from lorajob.corpora.fingerprint import fingerprint_archive, fingerprint_files
from lorajob.corpora.place import Place, is_archive, open_place
from lorajob.corpora.readers import Reader, reader_of
from lorajob.errors import ColumnError, CorpusError, UsageError
from lorajob.languages import is_locale, is_locale_of

GLANCE_SECONDS = 1.5  # most time for a look at the first files of an archive
KINDS = (
    "a Common Voice release (tar.gz or folder), a manifest (.tsv, .csv, .jsonl), or a folder or"
    " archive in a layout of docs/corpora.md"
)
SOURCES = (
    "download a Common Voice release from the Mozilla Data Collective and give it by --corpus,"
    " or write a manifest (TSV, CSV or JSONL with columns audio and text)"
)
NO_COLUMNS: Columns = MappingProxyType({})
_VERSION = re.compile(r"-v\d+(?:\.\d+)*$")
_RELEASE = re.compile(r"(?<![0-9])(\d+)\.(\d+)(?:-(\d{4})-(\d{2})-(\d{2}))?")


def open_corpus(
    path: Path, language: str, tick: Tick | None = None, columns: Columns = NO_COLUMNS
) -> Corpus:
    """Open the corpus at `path` and read its tables. `tick` is called often meanwhile.

    `columns` name the columns of a role, such as {"text": "raw_transcription"}.

    Raises UsageError if the path is not a corpus or is of another language, CorpusError if tables
    or archive cannot be read.
    """
    place = open_place(_existing(path), tick, columns=columns)
    return reader_of(place).clips(place, language, tick)


def fingerprint(path: Path, language: str, tick: Tick, columns: Columns = NO_COLUMNS) -> str:
    """A hash of the corpus's content. Raises as `open_corpus` does."""
    path = _existing(path)
    if is_archive(path):
        return fingerprint_archive(path, tick)
    return fingerprint_files(open_corpus(path, language, tick, columns), tick)


def check_corpus(path: Path, language: str, columns: Columns = NO_COLUMNS) -> None:
    """Check quickly that there is a corpus in this language. Does not read all of it.

    Raises UsageError or CorpusError as `open_corpus` does.
    """
    checked_reader(quick_place(path, columns), language)


def checked_reader(place: Place, language: str) -> Reader | None:
    """The reader of a place, after its check; None if a large archive's first files do not tell.

    Raises UsageError or CorpusError as `open_corpus` does.
    """
    with unless_partial(place):
        reader = reader_of(place)
        reader.check(place, language)
        return reader
    return None


@contextmanager
def unless_partial(place: Place) -> Iterator[None]:
    """Within the block, a fault of a place counts only if all its files were seen.

    In a large archive, a file that seems to be missing may come later.
    """
    try:
        yield
    except ColumnError:
        raise
    except CorpusError:
        if place.whole:
            raise


def quick_place(path: Path, columns: Columns = NO_COLUMNS) -> Place:
    """The place of a corpus; of a large archive, only its first files. Raises as `open_corpus`."""
    return open_place(_existing(path), seconds=GLANCE_SECONDS, columns=columns)


def find_corpus(root: Path | None, language: str) -> Path:
    """The newest release for `language` in `root`: `*-hi.tar.gz`, or a folder named `hi`.

    Raises CorpusError if there is no release.
    """
    if root is None:
        raise CorpusError(f"corpus: none given and LORAJOB_CORPORA is unset; {SOURCES}")
    if not root.is_dir():
        raise CorpusError(f"corpus: LORAJOB_CORPORA={root} is not a folder; {SOURCES}")
    found = list(_candidates(root, language))
    if not found:
        raise CorpusError(f"corpus: none for {language} in {root}; {SOURCES}")
    return max(found, key=_release)


def _candidates(root: Path, language: str) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        name = path.name.lower()
        suffix = next((end for end in ARCHIVES if name.endswith(end)), None)
        if suffix and path.is_file():
            if is_locale_of(_locale(path.name[: -len(suffix)]), language):
                yield path
        elif path.is_dir() and is_locale_of(path.name, language):
            yield path
        elif path.is_dir() and name.startswith("cv-corpus-"):
            yield from (inner for inner in path.iterdir() if is_locale_of(inner.name, language))


def _locale(stem: str) -> str:
    """The locale at the end of a name: `hi` of `sample-hi`.

    It may have a region: `hy-AM` of `cv-corpus-23.0-2025-09-05-hy-AM`, not `am` (Amharic). A
    version may follow, as in Mozilla Data Collective's `mcv-scripted-hi-v24.0`.
    """
    stem = _VERSION.sub("", stem)
    first, _, last = stem.rpartition("-")
    both = f"{first.rpartition('-')[2]}-{last}"
    return both if is_locale(both) and (last.isupper() or len(last) > 3) else last


def _release(path: Path) -> tuple[list[int], bool, str]:
    """Sort key: version and date in the name. A delta release sorts before the full release."""
    match = _RELEASE.search(path.name) or _RELEASE.search(path.parent.name)
    numbers = [int(number or 0) for number in match.groups()] if match else []
    return numbers, "delta" not in f"{path.parent.name}/{path.name}", path.name


def _existing(path: Path) -> Path:
    path = path.expanduser()
    if not path.exists():
        # OWNER/NAME was made an absolute path before.
        here = Path.cwd()
        name = path.relative_to(here) if path.is_relative_to(here) else path
        like = len(name.parts) == 2 and not path.suffix and not path.parent.exists()
        more = f"; a data set of the Hub is written hf:{name}" if like else ""
        # The path of `s3:/bucket/x`.
        if name.parts and re.fullmatch(r"(s3|gs|hf|https?):", name.parts[0]):
            scheme = name.parts[0]
            more += f"; a url is written {scheme}{'' if scheme == 'hf:' else '//'}..."
        raise UsageError(f"corpus: {path} does not exist; give {KINDS}{more}")
    return path
