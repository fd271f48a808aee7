"""Reads Common Voice releases: a tar.gz as downloaded, or its unpacked folder.

    cv-corpus-23.0-2025-09-05/hi/{train,dev,test,validated,other}.tsv
    cv-corpus-23.0-2025-09-05/hi/clips/common_voice_hi_12345678.mp3

Columns are found by name, because releases have from 8 to 13 of them. In a release no speaker is in
two of the splits train, dev and test. Clips that are in none of these three are in `validated` and
`other`, which are used only if a job asks for them. A delta release, which has delta in its name,
has no splits: its validated clips are read as `train`. Single-word releases have the same layout.
"""

from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import IO

from lorajob.corpora.archive import MAX_AUDIO_BYTES
from lorajob.corpora.clip import DEV, TEST, TRAIN, Corpus, Entry, Tick
from lorajob.corpora.place import Place
from lorajob.corpora.tables import faulty_entry, pick, pick_optional, read_tsv, text_lines
from lorajob.errors import UsageError
from lorajob.languages import is_locale, is_locale_of

NAME = "Common Voice release"
# A clip that is in two tables belongs to the first in this order.
SPLITS = ("test", "dev", "train", "validated", "other")
CLIPS = "clips"
# The columns of releases, by their number, for tables that lost their header.
COLUMNS = {
    8: "client_id path sentence up_votes down_votes age gender accent",
    10: "client_id path sentence up_votes down_votes age gender accents locale segment",
    11: "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    13: "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender"
    " accents variant locale segment",
}


@dataclass
class _Tables:
    """The entries of the tables that were read so far, by split."""

    of: dict[str, list[Entry]] = field(default_factory=dict)
    # Saves memory: all clips of a speaker share one string.
    _speakers: dict[str, str] = field(default_factory=dict)

    def add(self, split: str, table: IO[bytes], language: str) -> None:
        name = f"{split}.tsv"
        entries = self.of.setdefault(split, [])
        checked = False
        for row in read_tsv(text_lines(table, name), name, _positions):
            if row.fault:
                entries.append(faulty_entry(row, name, split))
                continue
            file = PurePosixPath(pick(row, ("path",), name)).name
            text = pick(row, ("sentence",), name)
            speaker = pick_optional(row, ("client_id",)) or ""
            if not checked:
                checked = True
                _check_locale(pick_optional(row, ("locale",)) or "", language, name)
            if file and "." not in file:
                file += ".mp3"  # missing in the first releases
            entries.append(
                Entry(
                    id=file or f"{name} line {row.line}",
                    source=file,
                    text=text,
                    speaker=self._speakers.setdefault(speaker, speaker),
                    split=split,
                )
            )

    def entries(self) -> tuple[Entry, ...]:
        unique: dict[str, Entry] = {}
        for split in SPLITS:
            for entry in self.of.get(split, []):
                unique.setdefault(entry.id, entry)
        return tuple(unique.values())


def _positions(first: list[str]) -> list[str] | None:
    columns = COLUMNS.get(len(first))
    return columns.split() if columns and first[1].endswith(".mp3") else None


def _in_train(entry: Entry) -> Entry:
    return replace(entry, split=TRAIN) if entry.split == "validated" else entry


def looks_like(place: Place) -> str | None:
    inner = [place, *(place.below(name) for name in place.folders())]
    if any(_is_release(it) for it in inner):
        return None
    # Of an archive whose tables come last, a quick look sees only the clips.
    if not place.whole and any(it.folders() == [CLIPS] or it.name == CLIPS for it in inner):
        return None
    if any(_has_tables(it) for it in inner):
        return "its tables have no columns path and sentence, and there is no folder clips"
    return "no train.tsv in it or one folder below"


def _is_release(place: Place) -> bool:
    if not _has_tables(place):
        return False
    return CLIPS in place.folders() or any(_has_columns(place, split) for split in SPLITS)


def _has_columns(place: Place, split: str) -> bool:
    if not place.has(f"{split}.tsv"):
        return False
    with place.open(f"{split}.tsv") as file:
        header = file.readline(1 << 16).decode("utf-8", "replace").lower().split("\t")
    return {"path", "sentence"} & {name.strip("\ufeff \r\n") for name in header} != set()


def check(place: Place, language: str) -> None:
    """Raise UsageError if the release is of another language."""
    find_root(place, language)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open a release. Raises CorpusError if its tables cannot be read."""
    root = find_root(place, language)
    tables = _Tables()
    for split in SPLITS:
        if root.has(f"{split}.tsv"):
            with root.open(f"{split}.tsv") as file:
                tables.add(split, file, language)
    entries = tables.entries()
    repeated = sum(map(len, tables.of.values())) - len(entries)
    # A delta release has no splits: its validated clips are new since the last release.
    if "delta" in f"{place.path.name}/{root.root}" and not any(map(tables.of.get, (DEV, TEST))):
        entries = tuple(_in_train(entry) for entry in entries)
    return Corpus(entries, root.audio(CLIPS, MAX_AUDIO_BYTES), repeated)


def find_root(place: Place, language: str) -> Place:
    """The place of the tables: `place`, or a folder in it that is named for the language.

    Raises UsageError if that folder is of another language.
    """
    if _has_tables(place):
        inner = [place]
    else:
        inner = [it for it in map(place.below, place.folders()) if _has_tables(it)]
    if not place.whole and not inner:
        inner = [place.below("..")] if place.name == CLIPS else [place]
    for root in inner:
        if not is_locale(root.name) or is_locale_of(root.name, language):
            return root
    raise _other_language(place.path, ", ".join(root.name for root in inner), language)


def _has_tables(place: Place) -> bool:
    return any(place.has(f"{split}.tsv") for split in SPLITS)


def _check_locale(locale: str, language: str, table: str) -> None:
    if is_locale(locale) and not is_locale_of(locale, language):
        raise _other_language(table, locale, language)


def _other_language(what: object, found: str, language: str) -> UsageError:
    return UsageError(f"corpus: {what} is of {found}, but the job's language is {language}")
