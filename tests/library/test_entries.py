"""The rows of a corpus's tables are in a file, and sets of ids are hashes."""

import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from lorajob.checking.table import open_table
from lorajob.corpora import Corpus
from lorajob.corpora.entries import Chosen, Entry, EntryList, by_recording, chosen
from lorajob.corpora.ids import Ids, Seen, unique
from lorajob.corpora.selection import select
from lorajob.corpora.trees import FolderAudio
from lorajob.spec import PreprocessConfig


def entry(number: int, source: str = "", start: float = 0.0, end: float | None = None) -> Entry:
    return Entry(f"id {number}", source, f"नमस्ते {number}\ud800", "anita", "train", start, end)


def test_a_list_of_entries_is_a_sequence_as_any_other():
    every = [entry(number) for number in range(200)]
    rows = EntryList(every)
    assert len(rows) == 200 and list(rows) == every
    assert [rows[it] for it in (0, 63, 64, 127, 128, 199, -1, -200)] == [
        every[it] for it in (0, 63, 64, 127, 128, 199, -1, -200)
    ]
    assert rows[60:70] == tuple(every[60:70])
    rows.append(entry(200))
    assert rows[200] == entry(200) and list(rows)[-2:] == [every[-1], entry(200)]
    odd = chosen(rows, lambda it: int(it.id.split()[1]) % 2 == 1)
    assert len(odd) == 100 and odd[1] == every[3] and list(odd[-1:]) == [every[199]]
    assert not chosen(rows, lambda it: False) and isinstance(odd[:2], Chosen)


def test_ids_and_speakers_can_be_written_as_utf_8():
    name = os.fsdecode(b"caf\xe9.wav")
    rows = EntryList([Entry(name, name, "é", os.fsdecode(b"Zo\xeb"), "train"), entry(1)])
    assert [(it.id, it.speaker) for it in rows] == [
        ("caf\\udce9.wav", "Zo\\udceb"),
        ("id 1", "anita"),
    ]
    # The file is found by its own name.
    assert rows[0].source == name and rows[0].text == "é"


def test_segments_of_a_recording_come_together_by_their_start():
    rows = [
        entry(0, "b.wav", 5.0, 6.0),
        entry(1, "a.wav"),
        entry(2),
        entry(3, "b.wav", 0.0, 1.0),
        entry(4),
        entry(5, "b.wav"),
    ]
    found = [(source, [it.id for it in group]) for source, group in by_recording(rows)]
    assert found == [
        ("b.wav", ["id 5", "id 3", "id 0"]),
        ("a.wav", ["id 1"]),
        ("", ["id 2", "id 4"]),
    ]
    assert list(by_recording([])) == []


def test_ids_are_a_set():
    ids = Ids(["a", "b", "a", "\ud800"])
    assert len(ids) == 3 and "a" in ids and "\ud800" in ids and "c" not in ids and 1 not in ids
    assert (ids | Ids("c")) - Ids(["a", "\ud800"]) == {"b", "c"}
    assert ids == Ids(["\ud800", "b", "a"]) and ids != {"a"} and not Ids() and "a" not in Ids()


def test_names_that_come_again_get_a_number():
    seen = Seen()
    names = [unique(seen, f"{number % 3000}") for number in range(7000)]
    assert names[:3000] == [f"{number}" for number in range(3000)]
    assert names[3000:6000] == [f"{number}#2" for number in range(3000)]
    assert names[6000:] == [f"{number}#3" for number in range(1000)] and len(seen) == 3000


def test_the_measures_leave_no_file_and_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError) as caught, open_table() as table:
        table.value("PRAGMA max_page_count = 100")
        # A kill at this moment would leave it.
        assert list(tmp_path.iterdir()) == []
        table.value("INSERT INTO vocabulary SELECT 'train', randomblob(1000000)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_memory_does_not_grow_with_the_rows_of_a_corpus(tmp_path: Path):
    def row(number: int) -> Entry:
        name = f"clips/{number:06}.wav"
        return Entry(name, name, f"यह एक छोटा वाक्य है {number}", f"s{number % 50}", "train")

    def peak(rows: int) -> int:
        tracemalloc.start()
        corpus = Corpus(EntryList(map(row, range(rows))), FolderAudio(tmp_path))
        selection = select(corpus, PreprocessConfig(), 0, "hi")
        wanted = selection.train | selection.test
        assert len(wanted) == rows
        chosen_rows = chosen(corpus.entries, lambda it: it.id in wanted)
        assert sum(len(group) for _, group in by_recording(chosen_rows)) == rows
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    few, many = peak(1500), peak(4500)
    # A row in memory takes over 700 bytes, its hashes and its number some 30.
    assert many - few < 3000 * 150
