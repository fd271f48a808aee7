"""Tables of clips: each row is read right, or dropped and counted by its true reason."""

import io
import json
from pathlib import Path

import pytest

from lorajob.corpora import check_corpus, open_corpus
from lorajob.corpora.spans import span_of
from lorajob.corpora.tables import Row, read_csv, read_jsonl, read_tsv, text_lines, text_of
from lorajob.errors import CorpusError, UsageError

GOOD = {"audio": "a.wav", "text": "नमस्ते"}


def rows(read, text: str | bytes) -> list[Row]:
    data = text.encode() if isinstance(text, str) else text
    return list(read(text_lines(io.BytesIO(data), "t"), "t"))


def found(read, text: str | bytes) -> list[object]:
    """The fields of each row; of a bad row its line and fault."""
    return [(row.line, row.fault) if row.fault else dict(row) for row in rows(read, text)]


def fields(*texts: str) -> list[object]:
    return [{"audio": f"{n}.wav", "text": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_header_shows_the_delimiter(mark: str) -> None:
    text = f"audio{mark}text\na.wav{mark}नमस्ते\n"
    assert found(read_csv, text) == [GOOD]
    assert found(read_csv, f"sep={mark}\n{text}") == [GOOD]
    assert found(read_tsv, text) == [GOOD]  # a .tsv without tabs


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(encoding: str, end: str) -> None:
    text = f"audio,text{end}a.wav,नमस्ते{end}"
    assert found(read_csv, text.encode(encoding)) == [GOOD]
    assert found(read_tsv, text.replace(",", "\t").encode(encoding)) == [GOOD]


def test_a_file_in_another_encoding_is_refused_with_its_line() -> None:
    with pytest.raises(CorpusError, match="t: line 2 is not UTF-8; save the file as UTF-8"):
        rows(read_csv, "audio,text\na.wav,caf\xe9\n".encode("latin-1"))


def test_a_row_with_other_fields_than_the_header_is_dropped_with_its_line() -> None:
    text = "audio,text,split\n0.wav,fine,train\n1.wav,well, no,train\n2.wav,short\n3.wav\n"
    assert found(read_csv, text) == [
        {"audio": "0.wav", "text": "fine", "split": "train"},
        (3, "4 fields where 3 are named"),
        (4, "2 fields where 3 are named"),
        (5, "1 field where 3 are named"),
    ]
    assert found(read_tsv, "path\tsentence\n0.mp3\ta\tb\n\n1.mp3\tc\n") == [
        (2, "3 fields where 2 are named"),
        {"path": "1.mp3", "sentence": "c"},
    ]


def test_a_delimiter_at_the_end_of_lines_adds_no_field() -> None:
    assert found(read_csv, "audio,text\n0.wav,a,\n1.wav,b,,\n") == fields("a", "b")
    assert found(read_csv, "audio,text,\n0.wav,a,\n") == [{"audio": "0.wav", "text": "a", "": ""}]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ('"O ní ""ni ilu nla"""', 'O ní "ni ilu nla"'),
        ('"""Hello"""', '"Hello"'),
        ('"Hello," he said.', '"Hello," he said.'),
        ('"Hello"', '"Hello"'),
        ('He said "hello"', 'He said "hello"'),
        ('"', '"'),
        ('""', '""'),
        ('"a "" b" c', '"a "" b" c'),
        ('"never closed', '"never closed'),
        ("'quoted'", "'quoted'"),
    ],
)
def test_a_tsv_field_is_unquoted_only_where_a_writer_quoted_it(field: str, text: str) -> None:
    assert found(read_tsv, f"audio\ttext\n0.wav\t{field}\n1.wav\tnext\n") == fields(text, "next")


def test_a_tab_in_quotes_is_one_field_and_another_tab_is_a_fault() -> None:
    text = 'audio\ttext\n0.wav\t"a\tb"\n1.wav\ta\tb\n2.wav\tc\n'
    assert found(read_tsv, text) == [
        {"audio": "0.wav", "text": "a\tb"},
        (3, "3 fields where 2 are named"),
        {"audio": "2.wav", "text": "c"},
    ]


def test_a_quoted_csv_field_may_have_delimiters_quotes_and_line_breaks() -> None:
    text = 'audio,text\n0.wav,"a, ""b"""\n1.wav,"first\nsecond, third"\n2.wav,5" pipe\n'
    assert found(read_csv, text) == fields('a, "b"', "first\nsecond, third", '5" pipe')


@pytest.mark.parametrize("bad", ['1.wav,"never closed', '1.wav,"Hello" he said', '1.wav,"a"b"'])
@pytest.mark.parametrize("last", ["3.wav,d", '3.wav,"d"', '3.wav,"d, ""e"""'])
def test_a_quote_that_is_not_closed_takes_no_other_row_with_it(bad: str, last: str) -> None:
    text = f"audio,text\n0.wav,a\n{bad}\n2.wav,c\n{last}\n"
    kept = found(read_csv, text)
    assert kept[0] == {"audio": "0.wav", "text": "a"}
    assert kept[1] == (3, "quotes that do not match")
    assert kept[2] == {"audio": "2.wav", "text": "c"}
    assert dict(kept[3])["audio"] == "3.wav" and len(kept) == 4


def test_two_stray_quotes_do_not_join_the_rows_between_them() -> None:
    text = 'audio,text\n0.wav,"a\n1.wav,b\n2.wav,c"\n3.wav,d\n'
    kept = found(read_csv, text)
    assert kept[0] == (2, "quotes that do not match")
    assert kept[1] == {"audio": "1.wav", "text": "b"} and kept[-1] == {
        "audio": "3.wav",
        "text": "d",
    }
    assert len(kept) == 4


def test_a_stray_carriage_return_is_white_space() -> None:
    assert found(read_tsv, "audio\ttext\n0.wav\ta\rb\n1.wav\tc\r\n") == fields("a b", "c")
    assert found(read_csv, "audio,text\n0.wav,a\rb\n") == fields("a b")


def test_a_nul_drops_its_row() -> None:
    assert found(read_csv, "audio,text\n0.wav,a\0b\n1.wav,c\n") == [
        (2, "NUL character"),
        {"audio": "1.wav", "text": "c"},
    ]


def test_a_header_must_name_each_column_once() -> None:
    with pytest.raises(CorpusError, match="t: two columns are named text; rename one"):
        rows(read_csv, "audio,Text, text\na.wav,b,c\n")
    assert found(read_csv, "audio,text,,\na.wav,b,c,d\n") == [
        {"audio": "a.wav", "text": "b", "": "d"}
    ]
    assert found(read_csv, "") == found(read_tsv, "\n\n") == found(read_csv, "sep=;\n") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("नमस्ते", "नमस्ते"),
        (None, ""),
        (5, "5"),
        (float("nan"), ""),
        ({"path": "a.wav", "bytes": None}, "a.wav"),
        ({"text": "b", "lang": "hi"}, "b"),
    ],
)
def test_a_json_value_becomes_text(value: object, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1], "text that is a JSON list"),
        ({"raw": "a", "normalised": "b"}, "text that is a JSON object"),
        ({"text": "a", "sentence": "b"}, "text that is a JSON object"),
        (True, "text that is true"),
        ("a\ud800", "lone surrogate, which is no character"),
        ("a\0", "NUL character"),
    ],
)
def test_a_json_value_of_another_kind_is_named(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        text_of(value)


def test_a_bad_json_line_drops_its_row_and_no_other() -> None:
    lines = ['{"audio": "0.wav", "text": "a"}', "{", "[1]", '{"audio": "3.wav", "text": "d"}']
    assert found(read_jsonl, "\n".join(lines)) == [
        {"audio": "0.wav", "text": "a"},
        (2, "line that is not JSON"),
        (3, "line that is not a JSON object"),
        {"audio": "3.wav", "text": "d"},
    ]


def test_a_manifest_counts_each_bad_row_once(tmp_path: Path) -> None:
    """All rows are there: those that can be read, and those that cannot, with the reason."""
    values = [
        {"audio": {"path": "0.wav"}, "text": "a", "meta": [1, 2]},
        {"audio": "1.wav", "text": ["b"]},
        {"audio": "2.wav", "text": "c\ud800"},
        {"audio": "3.wav", "text": {"text": "d"}},
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(it) + "\n" for it in values))
    entries = open_corpus(tmp_path, "hi").entries
    assert [(it.source, it.text, it.fault) for it in entries] == [
        ("0.wav", "a", ""),
        ("1.wav", "", "text that is a JSON list"),
        ("2.wav", "", "lone surrogate, which is no character"),
        ("3.wav", "d", ""),
    ]
    (tmp_path / "manifest.jsonl").unlink()
    (tmp_path / "manifest.csv").write_text("audio,text\n0.wav,a\n1.wav,b, c\n")
    entries = open_corpus(tmp_path, "hi").entries
    assert [(it.id, it.fault) for it in entries] == [
        ("0.wav", ""),
        ("manifest.csv line 3", "3 fields where 2 are named"),
    ]


def test_a_line_of_json_that_lacks_a_field_is_dropped_alone(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "a"}, {"audio": "b.wav"}, {"text": "c"}]
    table = tmp_path / "manifest.jsonl"
    table.write_text("".join(json.dumps(it) + "\n" for it in rows))
    assert [(it.id, it.fault) for it in open_corpus(tmp_path, "hi").entries] == [
        ("a.wav", ""),
        ("manifest.jsonl line 2", "line without audio or text"),
        ("manifest.jsonl line 3", "line without audio or text"),
    ]
    # The first line tells which columns the corpus has.
    table.write_text("".join(json.dumps(it) + "\n" for it in rows[1:]))
    with pytest.raises(CorpusError, match="no column text"):
        open_corpus(tmp_path, "hi")


def test_a_manifest_without_header_is_read_by_position_or_says_so(tmp_path: Path) -> None:
    table = tmp_path / "manifest.csv"
    for text in ("a.wav,I Came\nb.wav,two\n", "I Came,a.wav\ntwo,b.wav\n"):
        table.write_text(text)
        rows = [(it.source, it.text) for it in open_corpus(tmp_path, "hi").entries]
        assert rows == [("a.wav", "I Came"), ("b.wav", "two")]
    table.write_text("a.wav,नमस्ते,anita\nb.wav,दुनिया,bela\n")
    with pytest.raises(CorpusError, match="its first line must name the columns"):
        open_corpus(tmp_path, "hi")


@pytest.mark.parametrize("kind", ["list", "lines"])
def test_a_json_file_may_be_a_manifest(tmp_path: Path, kind: str) -> None:
    values = [{"audio": "a.wav", "text": "a"}, {"audio": {"path": "b.wav"}, "text": ["b"]}]
    lines = "".join(json.dumps(it) + "\n" for it in values)
    (tmp_path / "train.json").write_text(json.dumps(values) if kind == "list" else lines)
    (tmp_path / "test.json").write_text(json.dumps([{"path": "c.wav", "sentence": "c"}]))
    (tmp_path / "info.json").write_text('{"text": "about this corpus", "licence": "CC0"}')
    entries = open_corpus(tmp_path, "hi").entries
    assert {(it.split, it.id, it.text, it.fault) for it in entries} == {
        ("train", "a.wav", "a", ""),
        ("train", "b.wav", "", "text that is a JSON list"),
        ("test", "c.wav", "c", ""),
    }
    assert open_corpus(tmp_path / "train.json", "hi").entries[0].id == "a.wav"


def test_a_release_without_header_is_read_by_position(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    rows = ["s\ta.mp3\tI Came\t2\t0\t\t\t", "s\tb.mp3\ttwo\tthree\t0\t\t\t\t"]
    (tmp_path / "train.tsv").write_text("\n".join(rows))
    assert [(it.id, it.text, it.fault) for it in open_corpus(tmp_path, "hi").entries] == [
        ("a.mp3", "I Came", ""),
        ("train.tsv line 2", "", "9 fields where 8 are named"),
    ]


def test_a_clip_in_two_tables_is_counted(tmp_path: Path) -> None:
    for split in ("train", "validated"):
        (tmp_path / f"{split}.tsv").write_text("path\tsentence\na.mp3\tone\n")
    corpus = open_corpus(tmp_path, "hi")
    assert (len(corpus.entries), corpus.repeated) == (1, 1)


def test_an_empty_last_field_does_not_hide_a_delimiter_in_the_text() -> None:
    text = "audio,text,speaker\n0.wav,I came, I saw,\n1.wav,fine,\n"
    good = {"audio": "1.wav", "text": "fine", "speaker": ""}
    assert found(read_csv, text) == [(2, "4 fields where 3 are named"), good]
    tabs = text.replace(", I", "\tI").replace(",", "\t")
    assert found(read_tsv, tabs) == [(2, "4 fields where 3 are named"), good]


def test_a_program_that_quotes_the_header_quotes_every_field() -> None:
    text = '"audio"\t"text"\n"0.wav"\t"Hello"\n"1.wav"\t"say ""no"""\n'
    assert found(read_tsv, text) == fields("Hello", 'say "no"')


def test_a_joined_table_has_byte_order_marks_and_headers_inside() -> None:
    text = "\ufeff\ufeffaudio,text\n1.wav,a\n\ufeff2.wav,b\nAudio, text\n3.wav,text\n"
    rows = list(read_csv(text_lines(io.BytesIO(text.encode()), "t"), "t"))
    assert [(dict(row), row.fault) for row in rows] == [
        ({"audio": "1.wav", "text": "a"}, ""),
        ({"audio": "2.wav", "text": "b"}, ""),
        ({}, "header that is repeated"),
        ({"audio": "3.wav", "text": "text"}, ""),
    ]


@pytest.mark.parametrize(
    ("row", "span"),
    [
        ({"start_ms": "1500", "end_ms": "2250"}, (1.5, 2.25)),
        ({"offset_ms": "500", "duration_ms": "250"}, (0.5, 0.75)),
        ({"begin": "1", "stop": "2,5"}, (1.0, 2.5)),
        ({"xmin": "0:01", "xmax": "0:02.5"}, (1.0, 2.5)),
        ({"start_seconds": "1", "dur": "0.5"}, (1.0, 1.5)),
        ({"duration_ms": "900"}, (0.0, None)),
    ],
)
def test_columns_of_times_have_many_names_and_two_units(row, span) -> None:
    assert span_of(row) == span


def test_a_time_that_cannot_be_read_drops_its_row_and_not_the_rest_of_the_recording(tmp_path):
    rows = [{"start": True, "end": 2}, {"start": [1], "end": 2}, {"start_ms": "soon"}, {"start": 1}]
    lines = [json.dumps({"audio": f"{n}.wav", "text": "x"} | row) for n, row in enumerate(rows)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    found = [it.fault for it in open_corpus(tmp_path / "m.jsonl", "hi").entries]
    assert found == [
        "start that is no time (text that is true)",
        "start that is no time (text that is a JSON list)",
        "start_ms that is no time in milliseconds",
        "",
    ]


def test_a_column_subset_names_splits_if_it_names_ours(tmp_path: Path) -> None:
    text = "audio,text,subset\n1.wav,a,Train\n2.wav,b,testing\n3.wav,c,clean\n"
    (tmp_path / "manifest.csv").write_text(text)
    assert open_corpus(tmp_path, "hi").splits == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("wavs/1.wav|one, two\nwavs/2.wav|three", [("", "one, two"), ("", "three")]),
        ("1.wav|17|one, two\n2.wav|3|three", [("17", "one, two"), ("3", "three")]),
        ("audio|text\n1.wav|one, two\n2.wav|three", [("", "one, two"), ("", "three")]),
    ],
)
def test_a_list_of_files_as_speech_synthesis_has_it_is_read_if_it_is_named(
    tmp_path: Path, text: str, rows: list[tuple[str, str]]
) -> None:
    (tmp_path / "filelist.txt").write_text(text)
    found = open_corpus(tmp_path / "filelist.txt", "hi").entries
    assert [(it.speaker, it.text) for it in found] == rows
    (tmp_path / "filelist.txt").write_text("Some notes,\nwhich list nothing.\n")
    with pytest.raises(UsageError, match=r"filelist\.txt has no header with audio and text"):
        open_corpus(tmp_path / "filelist.txt", "hi")


def test_a_table_of_bad_rows_says_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("# made by hand\naudio,text\n1.wav,a\n")
    with pytest.raises(CorpusError, match="lists no clips: line 2 has 2 fields where 1 is named"):
        check_corpus(tmp_path, "hi")
