"""Reads Common Voice releases: a tar.gz as downloaded, or its unpacked folder.

    cv-corpus-23.0-2025-09-05/hi/{train,dev,test,validated,other}.tsv
    cv-corpus-23.0-2025-09-05/hi/clips/common_voice_hi_12345678.mp3

Columns are found by name, because releases have from 8 to 13 of them. In a release no speaker is in
two of the splits train, dev and test. Clips that are in none of these three are in `validated` and
`other`, which are used only if a job asks for them. A delta release, which has delta in its name,
has no splits: its validated clips are read as `train`. Single-word releases have the same layout.
"""

from pathlib import PurePosixPath
from typing import IO

from lorajob.corpora.archive import MAX_AUDIO_BYTES
from lorajob.corpora.clip import DEV, TEST, TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen
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


class _Tables:
    """The entries of the tables that were read so far. A clip belongs to the first table."""

    def __init__(self, language: str) -> None:
        self.entries = EntryList()
        self.repeated = 0
        self._language, self._ids = language, Seen()

    def add(self, split: str, table: IO[bytes], named: str) -> None:
        """Add the clips of the table `named` to a split."""
        checked = False
        for row in read_tsv(text_lines(table, named), named, _positions):
            if row.fault:
                self._add(faulty_entry(row, named, split))
                continue
            file = PurePosixPath(pick(row, ("path",), named)).name
            text = pick(row, ("sentence",), named)
            speaker = pick_optional(row, ("client_id",)) or ""
            if not checked:
                checked = True
                _check_locale(pick_optional(row, ("locale",)) or "", self._language, named)
            if file and "." not in file:
                file += ".mp3"  # missing in the first releases
            self._add(Entry(file or f"{named} line {row.line}", file, text, speaker, split))

    def _add(self, entry: Entry) -> None:
        if self._ids.count(entry.id) > 1:
            self.repeated += 1
        else:
            self.entries.append(entry)


def _positions(first: list[str]) -> list[str] | None:
    columns = COLUMNS.get(len(first))
    return columns.split() if columns and first[1].endswith(".mp3") else None


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
    tables = _Tables(language)
    is_delta, held_out = "delta" in f"{place.path.name}/{root.root}", False
    for split in SPLITS:
        # A delta release has no splits: its validated clips are new since the last release.
        in_train = is_delta and split == "validated" and not held_out
        if root.has(f"{split}.tsv"):
            with root.open(f"{split}.tsv") as file:
                tables.add(TRAIN if in_train else split, file, f"{split}.tsv")
        if split in (DEV, TEST):
            held_out = held_out or len(tables.entries) > 0
    return Corpus(tables.entries, root.audio(CLIPS, MAX_AUDIO_BYTES), tables.repeated)


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
