"""Corpora of one machine, and machines that have only a store in common with it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorajob.corpora import bring_corpus, local_copy, open_corpus
from lorajob.errors import CorpusError
from lorajob.spec import JobSpec, build_spec
from lorajob.storage.store import Store
from lorajob.tasks.batches import submit_batch
from lorajob.tasks.jobs import Jobs
from lorajob.worker.artifacts.lookup import recorded_ids
from tests.support.far import Far
from tests.support.service import wait_for
from tests.support.speech import Spoken, make_release, mp3, pack
from tests.support.tiny import SENTENCES

LINES = [
    Spoken(f"{split}-{number}.mp3", SENTENCES[number % 4], f"s{number % 3}", split)
    for split, count in (("train", 4), ("test", 2))
    for number in range(count)
]


def manifest(folder: Path) -> Path:
    """A table of the same clips in folders of their own, one of which is missing."""
    rows = ["audio\ttext\tspeaker\tsplit"]
    for number, line in enumerate(LINES):
        path = folder / "audio" / line.split / line.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mp3(line.seconds, hertz=440.0 + 20 * number))
        rows.append(f"{path.relative_to(folder)}\t{line.text}\t{line.speaker}\t{line.split}")
    rows.append(f"{folder}/gone.wav\tनहीं\ts9\ttrain")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder / "clips.tsv"


@pytest.fixture(params=["archive", "folder", "manifest"])
def corpus(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "manifest":
        return manifest(tmp_path)
    release = make_release(tmp_path, LINES)
    return release if request.param == "folder" else pack(release, tmp_path / "my #1 hi.tar.gz")


@pytest.fixture
def far(bucket: str, tiny_whisper: Path, tmp_path: Path) -> Iterator[Far]:
    """Machines of which one submits, and has no other files in common with them."""
    folder = tmp_path / "machines"
    folder.mkdir()
    made = Far(folder, f"{bucket}/{tmp_path.name}", tiny_whisper)
    try:
        made.hub.start_redis()
        yield made
    finally:
        made.close()


def heard(path: Path) -> list[tuple[str, str, str, str, bytes]]:
    """All that a job reads of a corpus."""
    corpus = open_corpus(path, "hi")
    clips = corpus.clips(corpus.splits)
    return sorted((it.id, it.text, it.speaker, it.split, sound(it.audio)) for it in clips)


def sound(audio: Path | bytes) -> bytes:
    if isinstance(audio, bytes):
        return audio
    return audio.read_bytes() if audio.is_file() else b""


def test_another_machine_reads_of_the_store_what_this_one_reads_of_its_files(
    corpus: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = heard(corpus)
    assert sum(bool(audio) for *_, audio in here) == len(LINES)
    url = bring_corpus(corpus, "hi", Store(f"{bucket}/{tmp_path.name}"))
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "there"))
    assert heard(local_copy(url)) == here


def test_a_corpus_is_brought_once_and_anew_when_it_has_changed(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, store = manifest(tmp_path), Store(f"{bucket}/{tmp_path.name}")
    first = bring_corpus(table, "hi", store)
    assert bring_corpus(table, "hi", store) == first
    assert len(caplog.messages) == len(store.names()) == 1
    (tmp_path / "audio" / "train" / "train-1.mp3").write_bytes(mp3(2.0))
    assert bring_corpus(table, "hi", store) != first
    assert len(store.names()) == 2


def test_a_job_with_a_manifest_runs_where_its_files_are_not(far: Far, tmp_path: Path) -> None:
    there, user = far.machine("there"), far.machine("user")
    files = tmp_path / "files"
    files.mkdir()
    spec = build_spec(
        {"language": "hi", "corpus": str(manifest(files)), "base_model": str(far.base)}
    )
    job_id = user.jobs.submit(spec)
    shutil.rmtree(files)
    there.start_worker("cpu")
    wait_for(lambda: user.records.load(job_id).stages["preprocess"].result, 60)
    record = user.records.load(job_id)
    assert record.stages["preprocess"].result.as_json()["train_clips"] == 4, record
    assert recorded_ids(user.settings) == [job_id]


def test_a_batch_brings_its_corpora_and_keeps_its_id(far: Far, tmp_path: Path) -> None:
    good, damaged = manifest(tmp_path), tmp_path / "mr.csv"
    damaged.write_bytes("audio,text\na.wav,नमस्ते\nb.wav,".encode() + b"\xff\n")
    specs = [JobSpec(language="hi", corpus=str(good)), JobSpec(language="mr", corpus=str(damaged))]
    jobs = Jobs(far.machine("user").settings)
    batch = submit_batch(jobs, specs)
    records = jobs.records.load_many(batch.batch.jobs)
    assert [record.state for record in records] == ["queued", "rejected"]
    assert records[0].corpus.startswith(f"{far.artifacts}/.corpora/")
    again = submit_batch(Jobs(jobs.settings), specs)
    assert (again.batch.id, again.queued) == (batch.batch.id, 0)
    with pytest.raises(CorpusError):
        jobs.submit(specs[1])


def test_a_corpus_that_is_everywhere_stays_where_it_is(far: Far, tmp_path: Path) -> None:
    table = manifest(tmp_path)
    changes = {"corpora": tmp_path, "corpora_everywhere": True}
    jobs = Jobs(far.machine("user").settings.model_copy(update=changes))
    job_id = jobs.submit(JobSpec(language="hi", corpus=str(table)))
    assert jobs.records.load(job_id).corpus == str(table)
