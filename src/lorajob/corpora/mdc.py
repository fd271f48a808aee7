"""Data sets of the Mozilla Data Collective: `mdc:DATASET_ID`, fetched by its package.

MDC_API_KEY is the key of an account that has accepted the data set's terms. The package is in the
extra `mdc`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorajob.errors import SetupError, UsageError, first_line
from lorajob.languages import is_locale, is_locale_of
from lorajob.storage.store import Check, StoreError

SCHEME = "mdc:"
# The names of the Collective's files, such as cv-corpus-23.0-2025-09-05-hy-AM.tar.gz.
_RELEASE = re.compile(
    r"(?:cv|sps)-corpus-[\d.]+(?:-delta|-singleword)?-\d{4}-\d\d-\d\d-(?P<locale>[A-Za-z-]+)"
    r"(?:\.tar\.gz|\.tgz|\.tar|\.zip)"
)
_ID = re.compile(r"[\w-]+")


def check(url: str) -> None:
    """Raise UsageError if there is no such data set, StoreError without the server."""
    version(url)


def check_language(url: str, language: str) -> None:
    """Raise UsageError if the data set's file is named as a Common Voice release of another one.

    StoreError without the server.
    """
    with _errors(url) as package:
        name = str(package.get_dataset_details(_id(url)).filename or "")
    match = _RELEASE.fullmatch(name)
    found = match["locale"] if match else ""
    if is_locale(found) and not is_locale_of(found, language):
        raise UsageError(f"corpus: {url} is of {found}, but the job's language is {language}")


def version(url: str) -> str:
    """The checksum of the data set's archive, or its file's name."""
    with _errors(url) as package:
        details = package.get_dataset_details(_id(url))
        return str(details.checksum or details.filename)


def download(url: str, folder: Path, check: Check) -> None:
    """Fetch the archive into `folder`, which then holds nothing else.

    A download that was interrupted is resumed. `check` is called before and after it.
    """
    check()
    with _errors(url) as package:
        archive = package.download_dataset(
            _id(url), download_directory=str(folder), show_progress=False
        )
    check()
    for path in folder.iterdir():
        # An archive of an earlier version.
        if path != archive:
            path.unlink()


def _id(url: str) -> str:
    name = url.removeprefix(SCHEME)
    if not _ID.fullmatch(name):
        raise UsageError(
            f"corpus: {url} is no data set of the Mozilla Data Collective; write mdc: and the last"
            " part of its page's address"
        )
    return name


@contextmanager
def _errors(url: str) -> Iterator[Any]:
    """The package, whose errors become one line each."""
    try:
        import datacollective
    except ImportError:
        raise SetupError(
            f"corpus: {url} needs the package datacollective: pip install 'lorajob[mdc]'"
        ) from None
    import requests

    page = f"https://mozilladatacollective.com/datasets/{url.removeprefix(SCHEME)}"
    try:
        yield datacollective
    except FileNotFoundError:
        raise UsageError(f"corpus: {url} does not exist, or was removed: see {page}") from None
    except PermissionError as error:
        raise UsageError(
            f"corpus: {url}: access denied ({first_line(error)}); accept its terms at {page}"
        ) from None
    except ValueError as error:
        raise UsageError(f"corpus: {url}: {first_line(error)}") from None
    except requests.RequestException as error:
        raise StoreError(f"corpus: {url} cannot be fetched: {first_line(error)}") from None
    except RuntimeError as error:
        kind = SetupError if "API key" in str(error) else StoreError
        raise kind(f"corpus: {url} cannot be fetched: {first_line(error)}") from None
    except Exception as error:
        if type(error).__name__ != "DownloadError":
            raise
        cause = error.__cause__ or error
        raise StoreError(f"corpus: {url} was not fetched: {first_line(cause)}") from None
