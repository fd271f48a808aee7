"""The texts of a service by language, which jobs use beside their audio."""

import gzip
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from lorajob.corpora.texts import text_in_use
from lorajob.errors import FilesError, LorajobError, UsageError
from lorajob.languages import find_language
from lorajob.storage.urls import is_url, public
from lorajob.tasks.jobs import Jobs
from lorajob.tasks.language_texts import LanguageText, LanguageTexts

if TYPE_CHECKING:
    from lorajob.client.web_api import WebApi


class TextsByLanguage(Protocol):
    """The texts of one service. `language` is a code or a name."""

    def list(self) -> list[LanguageText]:
        """All texts, by language, also those whose description is damaged."""
        ...

    def set(self, language: str, places: Sequence[str]) -> LanguageText:
        """Make the lines of files or urls the text of a language. Raises UsageError for a text
        that is missing, not UTF-8 or without words.
        """
        ...

    def remove(self, language: str) -> str:
        """Remove the text of a language; returns its code. Raises UsageError without one."""
        ...


@contextmanager
def _files(language: str, places: Sequence[str]) -> Iterator[list[Path]]:
    """The files of this machine at paths and urls, while the block runs.

    Raises LorajobError, also for a wrong language, and UsageError for what the block finds wrong
    with a file.
    """
    if isinstance(places, str):
        raise UsageError(f"places: {places!r} is one text; give a list, such as ['news.txt']")
    find_language(language)
    found: dict[str, Path] = {}
    try:
        with ExitStack() as stack:
            try:
                for place in dict.fromkeys(places):
                    found[place] = stack.enter_context(text_in_use(place))
            except LorajobError as error:
                raise type(error)(f"FILE: {str(error).removeprefix('corpus: ')}") from None
            yield [found[place] for place in places]
    except FilesError as error:
        message = str(error)
        for place, path in found.items():
            if is_url(place):
                message = message.replace(str(path), public(place))
        raise UsageError(f"FILE: {message}") from None


class LocalTexts:
    """The texts of a service whose files this machine reaches."""

    def __init__(self, jobs: Jobs) -> None:
        self._stored = LanguageTexts(jobs.settings)

    def list(self) -> list[LanguageText]:
        """As `TextsByLanguage.list`."""
        return self._stored.listed()

    def set(self, language: str, places: Sequence[str]) -> LanguageText:
        """As `TextsByLanguage.set`."""
        with _files(language, places) as files:
            return self._stored.set(language, files)

    def remove(self, language: str) -> str:
        """As `TextsByLanguage.remove`."""
        return self._stored.remove(language)


class RemoteTexts:
    """The texts of a service behind the url of its `lorajob web`. Files are read here."""

    def __init__(self, api: "WebApi") -> None:
        self._api = api

    def list(self) -> list[LanguageText]:
        """As `TextsByLanguage.list`."""
        return [LanguageText.model_validate(it) for it in self._api.get("/texts")]

    def set(self, language: str, places: Sequence[str]) -> LanguageText:
        """As `TextsByLanguage.set`."""
        from lorajob.speech.text_file import lines_of_file

        with _files(language, places) as files, tempfile.TemporaryFile() as packed:
            with gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as target:
                for path in files:
                    for line in lines_of_file(path):
                        target.write(f"{line}\n".encode())
            packed.seek(0)
            found = self._api.send_file("PUT", _path(language), packed)
        return LanguageText.model_validate(found)

    def remove(self, language: str) -> str:
        """As `TextsByLanguage.remove`."""
        return str(self._api.send("DELETE", _path(language))["language"])


def _path(language: str) -> str:
    return f"/texts/{quote(language, safe='')}"
