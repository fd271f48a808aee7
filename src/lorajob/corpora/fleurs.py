"""Reads FLEURS, as it lies on the Hub or as its archives unpack.

    hi_in/train.tsv  dev.tsv  test.tsv
    hi_in/audio/train/10004088536354799741.wav     or  hi_in/audio/train.tar.gz

The tables have no header. Their columns are those of COLUMNS. The text is `transcription`, which is
normalised; `--map text=raw_transcription` takes the sentence as it was written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorajob.corpora.archive import MAX_AUDIO_BYTES
from lorajob.corpora.clip import SPLITS, AudioSource, Clip, Corpus, Tick
from lorajob.corpora.entries import Chosen, Entry, EntryList, chosen
from lorajob.corpora.ids import Seen, unique
from lorajob.corpora.names import column
from lorajob.corpora.place import Place
from lorajob.corpora.tables import text_lines
from lorajob.corpora.trees import FolderTree, TarAudio
from lorajob.errors import CorpusError, UsageError
from lorajob.languages import is_locale, is_locale_of

NAME = "FLEURS"
COLUMNS = (
    "id",
    "file_name",
    "raw_transcription",
    "transcription",
    "characters",
    "num_samples",
    "gender",
)
CODES = {"cmn": "zh", "fil": "tl", "nb": "no", "ory": "or"}  # of folders, where Whisper's differ


def looks_like(place: Place) -> str | None:
    if any(_tables(it) for it in _locales(place)):
        return None
    return "no train.tsv of seven columns without header beside a folder audio"


def check(place: Place, language: str) -> None:
    """Raise UsageError if the corpus is of another language, CorpusError for an unknown column."""
    _root(place, language)
    _text_column(place)


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the corpus of a language. A row without seven fields is dropped."""
    root, index = _root(place, language), _text_column(place)
    entries, ids = EntryList(), Seen()
    for split in _tables(root):
        for row in _rows(root, split):
            if tick:
                tick()
            fault = "" if len(row) == len(COLUMNS) else f"{len(row)} fields where 7 are expected"
            name = row[1] if len(row) > 1 else ""
            text = row[index] if len(row) > index else ""
            source = f"{split}/{name}" if name else ""
            key = unique(ids, source or f"{split} row")
            entries.append(Entry(key, source, text, "", split, fault=fault))
    return Corpus(entries, _audio(root))


def _locales(place: Place) -> list[Place]:
    return [place, *(place.below(name) for name in place.folders())]


def _tables(place: Place) -> list[str]:
    """The splits whose tables lie here."""
    if "audio" not in place.folders():
        return []
    return [split for split in SPLITS if place.has(f"{split}.tsv") and _is_table(place, split)]


def _is_table(place: Place, split: str) -> bool:
    row = next(_rows(place, split), [])
    return len(row) == len(COLUMNS) and row[1].endswith(".wav")


def _root(place: Place, language: str) -> Place:
    found = [it for it in _locales(place) if _tables(it)]
    for root in found:
        code = root.name.partition("_")[0]
        code = CODES.get(code, code)
        if not is_locale(code) or is_locale_of(code, language):
            return root
    names = ", ".join(root.name for root in found)
    raise UsageError(f"corpus: {place.path} is of {names}, but the job's language is {language}")


def _text_column(place: Place) -> int:
    (wanted,) = column(place, "text", ("transcription",))
    if wanted not in COLUMNS:
        raise CorpusError(f"FLEURS: no column {wanted}; its columns: {', '.join(COLUMNS)}")
    return COLUMNS.index(wanted)


def _rows(place: Place, split: str) -> Iterator[list[str]]:
    name = f"{split}.tsv"
    with place.open(name) as file:
        for line in text_lines(file, name):
            if line.strip():
                yield line.rstrip("\r\n").split("\t")


def _audio(root: Place) -> AudioSource:
    tree = root.tree
    packed = {
        split: f"audio/{split}.tar.gz" for split in SPLITS if root.has(f"audio/{split}.tar.gz")
    }
    if packed and not root.folders("audio") and isinstance(tree, FolderTree):
        folder = tree.path / root.root
        return SplitArchives({split: folder / name for split, name in packed.items()})
    return root.audio("audio", MAX_AUDIO_BYTES)


def _of_split(entries: Sequence[Entry], split: str) -> Chosen:
    return chosen(entries, lambda entry: entry.split == split)


@dataclass(frozen=True)
class SplitArchives:
    """Audio in one tar archive for each split, under names such as `train/a.wav`."""

    paths: dict[str, Path]

    def read(self, entries: Sequence[Entry]) -> Iterator[Clip]:
        for split in dict.fromkeys(entry.split for entry in entries):
            part = _of_split(entries, split)
            if split in self.paths:
                yield from TarAudio(self.paths[split], "", MAX_AUDIO_BYTES).read(part)
            else:
                yield from (Clip.of(entry, b"") for entry in part)

    def stamp(self, entry: Entry) -> str:
        path = self.paths.get(entry.split)
        found = path.stat() if path and path.is_file() else None
        return f"{path} {found.st_size} {found.st_mtime_ns}" if found else "missing"
