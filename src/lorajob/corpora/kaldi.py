"""Reads Kaldi data folders.

    data/train/wav.scp     REC-1 audio/rec1.wav
    data/train/segments    UTT-1 REC-1 0.5 2.75      optional
    data/train/text        UTT-1 what is said
    data/train/utt2spk     UTT-1 anita               optional

A pipe in wav.scp is refused: lorajob runs no command that a corpus names.
"""

from collections.abc import Iterator

from lorajob.corpora.clip import TRAIN, Corpus, Tick
from lorajob.corpora.entries import Entry, EntryList
from lorajob.corpora.ids import Seen
from lorajob.corpora.names import locate, split_of_folders
from lorajob.corpora.place import Place
from lorajob.corpora.spans import WHOLE, Span, seconds
from lorajob.corpora.tables import text_lines
from lorajob.errors import CorpusError

NAME = "Kaldi data folder"


def looks_like(place: Place) -> str | None:
    return None if _folders(place) else "no wav.scp beside a file named text"


def check(place: Place, language: str) -> None:
    """Raise CorpusError for a pipe in a wav.scp or an empty table."""
    for folder in _folders(place):
        _recordings(place, folder)
        if next(_rows(place, _in(folder, "text")), None) is None:
            raise CorpusError(f"{place.path}: {_in(folder, 'text')} lists no clips")


def clips(place: Place, language: str, tick: Tick | None) -> Corpus:
    """Open the folders `train`, `dev` and `test`, or one folder.

    An utterance that lacks its recording, segment or text is dropped. Raises CorpusError as `check`
    does.
    """
    entries, ids, repeated = EntryList(), Seen(), 0
    for folder in _folders(place):
        split = split_of_folders(folder or place.name) or TRAIN
        for entry in _entries(place, folder, split):
            if tick:
                tick()
            if ids.count(entry.id) > 1:
                repeated += 1
            else:
                entries.append(entry)
    return Corpus(entries, place.audio(), repeated)


def _entries(place: Place, folder: str, split: str) -> Iterator[Entry]:
    recordings = _recordings(place, folder)
    texts = dict(_rows(place, _in(folder, "text")))
    speakers = _optional(place, _in(folder, "utt2spk"))
    segments = _optional(place, _in(folder, "segments"))
    for name in {**texts, **(segments or recordings)}:
        recording, (start, end), fault = name, WHOLE, ""
        if segments:
            try:
                recording, (start, end) = _segment(segments[name])
            except KeyError:
                fault = "not in segments"
            except ValueError:
                fault = "a line of segments that is not: utterance, recording, start, end"
        if not fault and recording not in recordings:
            fault = "recording not in wav.scp"
        if not fault and name not in texts:
            fault = "no transcript in text"
        yield Entry(
            id=name,
            source=recordings.get(recording, ""),
            text=texts.get(name, ""),
            speaker=speakers.get(name, ""),
            split=split,
            start=start,
            end=end,
            fault=fault,
        )


def _segment(line: str) -> tuple[str, Span]:
    recording, start, end = line.split()[:3]
    # Kaldi writes -1 for the recording's end.
    return recording, (seconds(start), None if float(end) == -1 else seconds(end))


def _recordings(place: Place, folder: str) -> dict[str, str]:
    """Recording -> file. Raises CorpusError for a pipe and for a part of a Kaldi archive."""
    table = _in(folder, "wav.scp")
    found = {}
    for name, file in _rows(place, table):
        if file.endswith("|") or file.startswith("|") or file == "-":
            raise CorpusError(
                f"{place.path}: {table} has a pipe for {name} ({file[:60]}); lorajob runs no"
                " command of a corpus: write the audio to files, as wav-copy does, and name these"
            )
        if ".ark:" in file:
            raise CorpusError(
                f"{place.path}: {table} has a Kaldi archive for {name} ({file[:60]}); write the"
                " audio to files, as wav-copy does, and name these"
            )
        found[name] = locate(place, folder, file)
    return found


def _folders(place: Place) -> list[str]:
    """The data folders: the place itself, or folders one or two below it."""
    if _is_data(place, ""):
        return [""]
    found = [name for name in place.folders() if _is_data(place, name)]
    if not found and "data" in place.folders():
        found = [
            f"data/{name}" for name in place.folders("data") if _is_data(place, f"data/{name}")
        ]
    # Kaldi's split folders repeat the clips of a whole one.
    return sorted(found, key=lambda name: (split_of_folders(name) is None, name))


def _is_data(place: Place, folder: str) -> bool:
    return place.has(_in(folder, "wav.scp")) and place.has(_in(folder, "text"))


def _optional(place: Place, table: str) -> dict[str, str]:
    return dict(_rows(place, table)) if place.has(table) else {}


def _rows(place: Place, table: str) -> Iterator[tuple[str, str]]:
    with place.open(table) as file:
        for line in text_lines(file, table):
            name, *rest = line.strip().split(None, 1) or [""]
            if name:
                yield name, rest[0].strip() if rest else ""


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
