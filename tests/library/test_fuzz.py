"""Whatever comes from outside ends in success or in one LorajobError: 12,500 inputs, made up."""

import io
import json
import string
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorajob.corpora import open_corpus
from lorajob.corpora.archive import Archive
from lorajob.errors import LorajobError
from lorajob.job.jobdir import STAGES, JobDir
from lorajob.spec import JobSpec, build_spec, setting_names
from lorajob.tasks.rebuild import record_of
from lorajob.worker.records.record import JobRecord, StageRecord
from tests.support.command import job_record, succeeded_record
from tests.support.fuzz import JSON, TEXT, examples

EXAMPLES = examples(by_default=2500)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


SETTINGS = st.sampled_from(setting_names())
SPEC_VALUES = st.dictionaries(st.sampled_from(list(JobSpec.model_fields)) | TEXT, JSON, max_size=6)
LINES = st.builds("{}={}".format, SETTINGS | TEXT, st.one_of(TEXT, JSON.map(str))) | TEXT


@EXAMPLES
@given(SPEC_VALUES, st.booleans(), st.lists(LINES, max_size=4))
def test_any_spec(values, whole, sets):
    if whole:
        values = {"language": "hi", "corpus": "c.tsv"} | values
    try:
        spec = build_spec(values, sets=sets)
    except LorajobError as error:
        assert str(error)
    else:
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def rows(separator: str) -> st.SearchStrategy[bytes]:
    """Tables, more or less, in UTF-8, more or less."""
    header = st.lists(TEXT, min_size=1, max_size=5)
    head = header | st.just(["audio", "text", "split"]) | st.just(["path", "sentence", "locale"])
    lines = st.tuples(head, st.lists(st.lists(TEXT, max_size=5), max_size=5))
    table = lines.map(lambda it: "\n".join(separator.join(row) for row in (it[0], *it[1])))
    encoded = table.map(lambda text: text.encode("utf-8", "surrogatepass"))
    return encoded | st.binary(max_size=200)


JSON_LINES = st.lists(JSON | st.fixed_dictionaries({"audio": JSON, "text": JSON}), max_size=4).map(
    lambda values: "\n".join(map(json.dumps, values)).encode()
)
TABLES = st.one_of(
    rows("\t").map(lambda data: (".tsv", data)),
    rows(",").map(lambda data: (".csv", data)),
    JSON_LINES.map(lambda data: (".jsonl", data)),
)


@EXAMPLES
@given(TABLES)
def test_any_manifest(folder, table):
    suffix, data = table
    path = folder / f"manifest{suffix}"
    path.write_bytes(data)
    read(path)


@EXAMPLES
@given(st.sampled_from(["train", "test", "validated"]), rows("\t"))
def test_any_table_of_a_release(folder, split, data):
    release = folder / "release" / "hi"
    release.mkdir(parents=True, exist_ok=True)
    for old in release.iterdir():
        old.unlink()
    (release / f"{split}.tsv").write_bytes(data)
    read(release)


def read(path: Path) -> None:
    """Open a corpus and read it to its end."""
    try:
        corpus = open_corpus(path, "hi")
        for clip in corpus.reader.read(list(corpus.entries)):
            assert isinstance(clip.audio, bytes | Path)
            assert not isinstance(clip.audio, Path) or clip.audio.name
    except LorajobError as error:
        assert str(error)


KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
NAMES = st.sampled_from(
    [
        "cv/hi/train.tsv",
        "cv/hi/clips/a.mp3",
        "cv/ta/train.tsv",
        "./train.tsv",
        "../a",
        "/etc/passwd",
    ]
) | st.text(string.printable, min_size=1, max_size=20)
MEMBERS = st.lists(st.tuples(NAMES, KINDS | st.just(tarfile.REGTYPE), rows("\t")), max_size=4)
DAMAGE = st.none() | st.tuples(st.floats(0, 1), st.binary(max_size=40), st.booleans())


@EXAMPLES
@given(MEMBERS, st.sampled_from(["w", "w:gz", "w:bz2", "w:xz"]), DAMAGE)
def test_any_archive(folder, members, mode, damage):
    data = archive(members, mode)
    if damage is not None:
        where, bytes_, cut = damage
        at = int(where * len(data))
        data = data[:at] + bytes_ + (b"" if cut else data[at + len(bytes_) :])
    path = folder / "release.tar.gz"
    path.write_bytes(data)
    read(path)
    try:
        names = [name for name, _, _ in Archive(path).members()]
    except LorajobError:
        return
    assert not any(name.is_absolute() or ".." in name.parts for name in names)


def archive(members: list[tuple[str, bytes, bytes]], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            member.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


FIELDS = st.sampled_from(list(JobRecord.model_fields) + list(StageRecord.model_fields)) | TEXT
CHANGES = st.dictionaries(FIELDS, JSON, max_size=4)


@EXAMPLES
@given(st.booleans(), CHANGES, st.dictionaries(st.sampled_from(STAGES), CHANGES, max_size=2), JSON)
def test_any_job_record(folder, done, changes, stages, whole):
    job = JobDir(folder / "hi-1a2b3c4d")
    record = succeeded_record(folder) if done else job_record(folder)
    values = record.model_dump(mode="json")
    values |= changes
    for name, fields in stages.items():
        found = values["stages"].get(name) if isinstance(values["stages"], dict) else None
        if isinstance(found, dict):
            found |= fields
    job.spec_path.write_text(json.dumps({"language": "hi", "corpus": "/c"}), "utf-8")
    for text in (json.dumps(values), json.dumps(whole)):
        job.record_path.write_text(text, "utf-8")
        try:
            made = record_of(job)
        except LorajobError as error:
            assert str(error)
            continue
        assert made.folder == str(job.root) and made.id == job.root.name
        assert JobRecord.from_hash(made.to_hash()) == made
    flat = record.to_hash() | {f"{k}": str(v) for k, v in changes.items()}
    flat |= {f"{name}.{k}": json.dumps(v) for name, it in stages.items() for k, v in it.items()}
    try:
        JobRecord.from_hash(flat)
    except LorajobError as error:
        assert str(error)
