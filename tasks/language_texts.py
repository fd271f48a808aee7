"""The text of each language (`lorajob lm`): jobs of the language use it as their `evaluate.text`.

ARTIFACTS/.texts/CODE.txt.gz, in the folder or store of the jobs, holds a sentence a line, and
CODE.json what it is made of. Each is replaced as a whole. Redis is not needed.
"""

import fcntl
import gzip
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lorajob.errors import FULL, DiskError, UsageError
from lorajob.job.jobdir import hash_file
from lorajob.languages import find_language, known_languages
from lorajob.spec import JobSpec
from lorajob.storage.folders import LOCKS, locked
from lorajob.storage.locations import Folder
from lorajob.worker.artifacts.lookup import jobs_location
from lorajob.worker.settings import Settings

FOLDER = ".texts"  # no job has such a name
TEXT = ".txt.gz"


class LanguageText(BaseModel):
    """The text of a language, as a list shows it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    language: str
    """Its code."""
    lines: int
    characters: int
    bytes: int
    """Of the packed file."""
    sha256: str
    """Of the packed file."""
    at: float
    """When it was set, in seconds since the epoch."""
    damaged: str | None = None
    """What is wrong with its description, and what to do; null for a whole one.

    Of a damaged one only `language` is known.
    """


class LanguageTexts:
    """The texts beside the jobs that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._location = jobs_location(settings)

    def listed(self) -> list[LanguageText]:
        """All texts, by language, also those whose description is damaged. Raises StoreError."""
        if isinstance(self._location, Folder):
            names = [it.name for it in (self._location.path / FOLDER).glob("*")]
        else:
            names = [it.rpartition("/")[2] for it in self._location.names(FOLDER)]
        # Jobs use a text although its description is missing.
        codes = {it.partition(".")[0] for it in names if it.endswith((".json", TEXT))}
        known = sorted(codes & {it.code for it in known_languages()})
        return [found for code in known if (found := self._described(code)) is not None]

    def set(self, language: str, files: Sequence[Path]) -> LanguageText:
        """Make the lines of files, plain or packed with gzip, the text of a language.

        It takes the place of an earlier one. Lines without words are left out. Raises UsageError
        for an unknown language, and if the lines have no words; FilesError for a file that is
        damaged or not UTF-8; DiskError for a full disk.
        """
        code = find_language(language).code
        try:
            return self._set(code, files)
        except OSError as error:
            if error.errno not in FULL:
                raise
            why = f"the text of {code} cannot be written: {error.strerror}"
            raise DiskError(why) from None

    def _set(self, code: str, files: Sequence[Path]) -> LanguageText:
        with tempfile.TemporaryDirectory(prefix="lorajob-text-") as name:
            packed = Path(name) / "text.gz"
            lines, characters = _pack(files, code, packed)
            if not lines:
                raise UsageError("FILE: the text has no words; give a sentence a line, in UTF-8")
            made = LanguageText(
                language=code,
                lines=lines,
                characters=characters,
                bytes=packed.stat().st_size,
                sha256=hash_file(packed),
                at=time.time(),
            )
            with self._locked(code):
                self._location.upload(packed, _file(code))
                self._location.write(f"{FOLDER}/{code}.json", made.model_dump_json().encode())
        return made

    def remove(self, language: str) -> str:
        """Remove the text of a language. Returns its code. Raises UsageError without one."""
        code = find_language(language).code
        with self._locked(code):
            if self.place(code) is None and self._location.read(f"{FOLDER}/{code}.json") is None:
                raise UsageError(f"LANG: {code} has no text; `lorajob lm list` lists the texts")
            # A text without its description is a damaged one.
            for name in (_file(code), f"{FOLDER}/{code}.json"):
                if isinstance(self._location, Folder):
                    (self._location.path / name).unlink(missing_ok=True)
                else:
                    self._location.remove(name)
        return code

    def place(self, code: str) -> str | None:
        """The path or url of the text of a language; None without one. Raises StoreError."""
        if isinstance(self._location, Folder):
            path = self._location.path / _file(code)
            return str(path) if path.is_file() else None
        if self._location.info(_file(code)) is None:
            return None
        return f"{self._location.url}/{_file(code)}"

    def _described(self, code: str) -> LanguageText | None:
        if self.place(code) is None:
            return None
        what, fault = f"{FOLDER}/{code}.json in LORAJOB_ARTIFACTS", "missing"
        mend = f"set the text again, or `lorajob lm remove {code}`"
        try:
            data = self._location.read(f"{FOLDER}/{code}.json")
            if data is not None:
                fault = "damaged"
                return LanguageText.model_validate(json.loads(data))
        except OSError as error:
            fault, mend = f"not readable ({error.strerror})", "allow it, or move it away"
        except (ValueError, ValidationError):
            pass
        why = f"{what} is {fault}; {mend}"
        return LanguageText(
            language=code, lines=0, characters=0, bytes=0, sha256="", at=0.0, damaged=why
        )

    @contextmanager
    def _locked(self, code: str) -> Iterator[None]:
        """Allow one change of a text at a time on this machine."""
        with locked(self._settings.workplace / LOCKS / f"text-{code}", fcntl.LOCK_EX):
            yield


def with_language_text(spec: JobSpec, settings: Settings) -> JobSpec:
    """The spec with the text of its language, if it names none and there is one."""
    if spec.evaluate.text is not None or not spec.evaluate.language_text:
        return spec
    place = LanguageTexts(settings).place(spec.language)
    if place is None:
        return spec
    evaluate = spec.evaluate.model_copy(update={"text": place})
    return spec.model_copy(update={"evaluate": evaluate})


def is_language_text(spec: JobSpec) -> bool:
    """Whether the text of a job is that of its language (`with_language_text`)."""
    return (spec.evaluate.text or "").endswith(f"/{_file(spec.language)}")


def _pack(files: Sequence[Path], language: str, target: Path) -> tuple[int, int]:
    """Write the lines with words to a packed file. Returns how many, and their characters."""
    from lorajob.speech.text import normalise
    from lorajob.speech.text_file import lines_of_file

    lines = characters = 0
    # The same text gives the same bytes.
    with target.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        for path in files:
            for line in lines_of_file(path):
                if found := len(normalise(line, language)):
                    lines, characters = lines + 1, characters + found
                    packed.write(f"{line}\n".encode())
    return lines, characters


def _file(code: str) -> str:
    return f"{FOLDER}/{code}{TEXT}"
