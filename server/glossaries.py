"""The glossaries that requests use: those of languages and jobs, as files of this machine.

A model's process reads them there. A change counts within REREAD_SECONDS, without a restart.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import LorajobError
from lorajob.languages import find_language
from lorajob.serving.models import GlossaryFile
from lorajob.tasks.glossaries import GlossaryFiles, owner_name
from lorajob.worker.settings import Settings

REREAD_SECONDS = 1.0  # between two looks at a glossary
FIRST_SECONDS, NEXT_SECONDS = 10.0, 1.0  # that a request waits for a look
LIST = ""  # in the place of a glossary's name
KEPT = 3  # copies of a glossary: requests may still read the older ones

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Look:
    """What was found: the version of a glossary, and its copy; None without a glossary."""

    version: str | None
    file: GlossaryFile | None


class GlossaryShelf:
    """Finds glossaries, and copies each version of one to `folder` once. Use it in one event loop.

    If glossaries cannot be read, requests use those that were read before.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._files, self._folder = GlossaryFiles(settings), folder
        self._looks: dict[str, _Look] = {}
        self._languages: list[str] | None = None  # that have a glossary, as listed last
        self._copies: dict[str, list[Path]] = {}
        self._read_at: dict[str, float] = {}
        self._said: dict[str, str] = {}  # errors, of which each is logged once
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._thread = ThreadPoolExecutor(1, "glossaries")

    async def find(self, language: str | None, model: str) -> tuple[GlossaryFile, ...]:
        """The glossaries of a language and a model, as far as they exist.

        `language` is a code of lorajob; None: it is not known yet, so those of all languages.
        """
        if language is None:
            await self._look_at(LIST)
        languages = (self._languages or []) if language is None else [language]
        names = [*languages, *([model] if _is_job(model) else [])]
        await asyncio.gather(*(self._look_at(it) for it in names))
        looks = [self._looks[it] for it in names if it in self._looks]
        return tuple(it.file for it in looks if it.file is not None)

    def close(self) -> None:
        """End the thread. A store that hangs does not delay it."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look_at(self, name: str) -> None:
        """Look for a new version, at most once in REREAD_SECONDS and once at a time.

        With the name LIST the languages are listed.
        """
        now = time.monotonic()
        task = self._reading.get(name)
        if task is None or task.done():
            if now - self._read_at.get(name, float("-inf")) < REREAD_SECONDS:
                return
            self._read_at[name] = now
            task = self._reading[name] = asyncio.create_task(self._read(name))
        known = self._languages is not None if name == LIST else name in self._looks
        await asyncio.wait({task}, timeout=NEXT_SECONDS if known else FIRST_SECONDS)

    async def _read(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        known = self._looks.get(name)
        try:
            if name == LIST:
                names = await loop.run_in_executor(self._thread, self._files.names)
                self._languages = [it for it in names if _is_language(it)]
            else:
                found = await loop.run_in_executor(self._thread, self._newest, name, known)
                self._looks[name] = found
        except (LorajobError, OSError) as error:
            if self._said.get(name) != str(error):
                self._said[name] = str(error)
                rest = "is left out" if known is None else "is used as it was read last"
                what = (
                    "the list of glossaries" if name == LIST else f"the glossary of {name} {rest}"
                )
                log.error("%s: %s", what, error)
            return
        self._said.pop(name, None)

    def _newest(self, name: str, known: _Look | None) -> _Look:
        version = self._files.version(name)
        if known is not None and known.version == version:
            return known
        found = None if version is None else self._files.content(name)
        if found is None:
            return _Look(None, None)
        path = self._folder / f"glossary-{name}-{found.sha256[:16]}.txt"
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_text(found.text, "utf-8", newline="")
            part.replace(path)
        copies = [it for it in self._copies.get(name, []) if it != path] + [path]
        for old in copies[:-KEPT]:
            old.unlink(missing_ok=True)
        self._copies[name] = copies[-KEPT:]
        language = find_language(name).token if _is_language(name) else None
        return _Look(
            version, GlossaryFile(name=name, path=path, sha256=found.sha256, language=language)
        )


def _is_job(name: str) -> bool:
    """Whether a model is that of a job. A base may be called like a language."""
    try:
        return owner_name(name) == name and not _is_language(name)
    except LorajobError:
        return False


def _is_language(name: str) -> bool:
    try:
        return find_language(name).code == name
    except LorajobError:
        return False
