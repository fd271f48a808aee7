"""Several corpora in one job: shares, a corpus to test on, and the options that name them."""

import io

import numpy as np
import pytest

from lorajob import preprocess
from lorajob.cli.spec_options import corpus_values, guard_values
from lorajob.corpora import open_corpus
from lorajob.corpora.joined import CorpusShare, join_corpora
from lorajob.errors import UsageError
from lorajob.job.jobdir import JobDir
from lorajob.job.report import Report
from lorajob.spec import build_spec
from lorajob.speech.clipstore import ClipStore
from lorajob.worker.records.record import JobRecord, new_stages
from tests.support.layouts import put, sound
from tests.support.speech import make_model

# All clips have the same sound, and texts of Latin letters.
ALLOWED = {"allow_script": True, "allow_leakage": True}


def corpus(folder, name, count, test=0):
    """A manifest of `count` clips to train on, and `test` to test on."""
    rows = ["audio\ttext\tsplit\tspeaker"]
    for number in range(count + test):
        split = "train" if number < count else "test"
        rows.append(f"{number}.wav\t{name} {number}\t{split}\t{name}{number % 3}")
        put(folder / name / f"{number}.wav", sound(1, 0.4))
    put(folder / name / "manifest.tsv", "\n".join(rows) + "\n")
    return folder / name


def opened(*paths):
    return [open_corpus(path, "hi") for path in paths]


def test_a_share_of_the_training_clips_is_sampled_by_the_seed(tmp_path):
    a, b = opened(corpus(tmp_path, "a", 10, 2), corpus(tmp_path, "b", 20, 4))
    chosen = {}
    for seed in (0, 0, 1):
        joined = join_corpora(
            [CorpusShare(a), CorpusShare(b, 0.3)], None, ("train", "dev"), "test", seed
        )
        assert joined.splits == {"train": 10 + 6, "test": 2 + 4}
        chosen.setdefault(seed, set()).add(frozenset(it.id for it in joined.entries))
    assert len(chosen[0]) == 1 and chosen[0] != chosen[1]


def test_clips_of_the_same_name_stay_apart_and_keep_their_audio(tmp_path):
    a, b = corpus(tmp_path, "a", 2), corpus(tmp_path, "b", 2)
    put(b / "1.wav", sound(5))
    joined = join_corpora([CorpusShare(it) for it in opened(a, b)], None, ("train",), "test", 0)
    clips = {clip.id: clip for clip in joined.clips(["train"])}
    assert list(clips) == ["0.wav", "1.wav", "2/0.wav", "2/1.wav"]
    assert (clips["2/1.wav"].text, clips["2/1.wav"].audio) == ("b 1", b / "1.wav")


@pytest.mark.parametrize(("held_out", "tested"), [(0, 5), (2, 2)])
def test_a_corpus_to_test_on_replaces_the_test_splits(tmp_path, held_out, tested):
    a, c = opened(corpus(tmp_path, "a", 4, 3), corpus(tmp_path, "c", 5 - held_out, held_out))
    joined = join_corpora([CorpusShare(a)], c, ("train", "dev"), "test", 0)
    assert joined.splits == {"train": 4, "test": tested}
    assert {it.text[0] for it in joined.entries if it.split == "test"} == {"c"}


def test_a_job_trains_on_all_and_tests_on_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAJOB_CACHE_GB", "0")
    a, b, c = corpus(tmp_path, "a", 4), corpus(tmp_path, "b", 10), corpus(tmp_path, "c", 3)
    values = corpus_values((str(a), f"{b}=0.5"), str(c), ())
    model = make_model(tmp_path / "model", "hi")
    values |= {"language": "hi", "base_model": str(model), "preprocess": ALLOWED}
    spec = build_spec(values)
    out = tmp_path / "out"
    out.mkdir()
    report = Report("preprocess", io.StringIO())
    result = preprocess.run(spec, JobDir(tmp_path), out, 1, report)
    assert (result.train_clips, result.test_clips, result.dropped) == (9, 3, {})
    texts = [text[0] for text in ClipStore(out / "train").texts]
    assert np.unique(texts, return_counts=True)[1].tolist() == [4, 5]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (("a.tsv",), {"corpus": "a.tsv", "corpus_weight": 1.0, "more_corpora": []}),
        (
            ("a", "b=0.3"),
            {
                "corpus": "a",
                "corpus_weight": 1.0,
                "more_corpora": [{"corpus": "b", "weight": 0.3}],
            },
        ),
        (
            ("hf:a/b?config=1",),
            {"corpus": "hf:a/b?config=1", "corpus_weight": 1.0, "more_corpora": []},
        ),
        (
            ("hf:a/b?split=train=0.25",),
            {"corpus": "hf:a/b?split=train", "corpus_weight": 0.25, "more_corpora": []},
        ),
    ],
)
def test_a_weight_follows_the_corpus(given, values):
    assert corpus_values(given, None, ()) == values


def test_a_path_that_exists_is_a_path(tmp_path):
    odd = tmp_path / "rate=0.5"
    odd.mkdir()
    assert corpus_values((str(odd),), None, ())["corpus"] == str(odd)


def test_a_guard_may_name_its_language(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("calls.tsv", "en=calls.tsv", "Tamil=s3://b/a?x=y", "hf:a/b?config=1", "/a=b.tsv")
    found = guard_values(given)["gate"]["corpora"]
    assert [(it["corpus"], it.get("language")) for it in found] == [
        ("calls.tsv", None),
        ("calls.tsv", "en"),
        ("s3://b/a?x=y", "ta"),
        ("hf:a/b?config=1", None),
        ("/a=b.tsv", None),
    ]
    assert guard_values(()) == {}
    (tmp_path / "en=calls.tsv").touch()
    assert guard_values(("en=calls.tsv",)) == {"gate": {"corpora": [{"corpus": "en=calls.tsv"}]}}
    with pytest.raises(UsageError, match=r"--guard: 'en=' names no corpus"):
        guard_values(("en=",))
    with pytest.raises(UsageError, match=r"--guard: 'xx=calls.tsv': language: "):
        guard_values(("xx=calls.tsv",))
    spec = build_spec({"language": "hi", "corpus": "a"} | guard_values(("en=b", "c")))
    assert (spec.places, spec.all_places) == (("a",), ("a", "b", "c"))
    assert spec.with_places(str.upper).all_places == ("A", "B", "C")
    assert [place[:2] for place in spec.checked_places] == [("a", "hi"), ("b", "en"), ("c", "hi")]


def test_what_is_no_weight_or_no_map_is_refused():
    for given in ("b=0", "b=1.5", "b=-1", "b=nan"):
        with pytest.raises(UsageError, match=r"allowed: over 0, at most 1$"):
            corpus_values(("a", given), None, ())
    with pytest.raises(UsageError, match="not of the form ROLE=COLUMN"):
        corpus_values((), None, ("raw_transcription",))
    with pytest.raises(UsageError, match="--map: 'texts' is no role; allowed: audio, text,"):
        corpus_values(("a",), None, ("texts=x",))
    with pytest.raises(UsageError, match=r"preprocess\.columns"):
        build_spec({"corpus": "a", "language": "hi", "preprocess": {"columns": {"texts": "x"}}})
    columns = {"text": "raw_transcription"}
    assert corpus_values((), None, ("text=raw_transcription",)) == {
        "preprocess": {"columns": columns}
    }


def test_a_record_keeps_the_places_of_all_corpora():
    record = JobRecord(
        id="hi-1a2b3c4d",
        language="hi",
        created_at=1.0,
        corpus="s3://b/a.tar.gz",
        more_corpora=("hf:me/b", "/c"),
        base_model="m",
        folder="f",
        stages=new_stages(),
    )
    assert JobRecord.from_hash(record.to_hash()) == record
    spec = build_spec(corpus_values(("a", "b=0.5"), "c", ()) | {"language": "hi"})
    assert spec.places == ("a", "b", "c")
    assert spec.with_places(str.upper).places == ("A", "B", "C")
