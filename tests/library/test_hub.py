"""Data sets of a Hub: what `hf:OWNER/NAME` reads, and one line for what it cannot read."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorajob.corpora import check_corpus, hub, local_copy, open_corpus
from lorajob.errors import UsageError
from lorajob.storage.urls import local_path, public
from tests.support.hub_server import hub as hub_server
from tests.support.layouts import ONE, THREE, TWO, audiofolder, dataset, parquet_shards, put

# Each is asked in one process, because the libraries read HF_ENDPOINT when they are imported.
SCRIPT = """
import json, sys
from lorajob.checking import glance
from lorajob.corpora import check_remote, local_copy
from lorajob.corpora.texts import text_file
from lorajob.errors import LorajobError
from lorajob.spec import build_spec
glance.GLANCE_SECONDS = 300
said = {}
for url in sys.argv[1:]:
    try:
        if url.startswith("text "):
            said[url] = str(text_file(url[5:]))
            continue
        check_remote(url)
        if url.startswith("hf:look/"):
            spec = build_spec({"language": "hi", "corpus": url, "base_model": "x/y"})
            said[url] = str(glance.glance(url, "hi", {}, spec))
        else:
            said[url] = str(local_copy(url))
    except LorajobError as error:
        said[url] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


# Texts of a data set, of a column that is found or named.
TEXTS = {
    "text hf:me/parquet?split=train": f"{ONE}\n{TWO}\n",
    "text hf:me/parquet?split=test&column=speaker_id": "3\n",
    "text hf:me/parquet?split=train%2Btest": f"{ONE}\n{TWO}\n{THREE}\n",
    "text hf:me/lists?column=count": "0\n1\n",
    "text hf:me/lists?column=words": "UsageError: corpus: hf:me/lists: column words has no texts, "
    "but values such as ['a', 'b']; column= names another one",
    "text hf:me/configs?config=ta_in": "UsageError: corpus: hf:me/configs has no config ta_in; its "
    "configs: hi_in",
    "text hf:me/parquet?column=words": "UsageError: corpus: hf:me/parquet has no column words; its "
    "columns: audio, transcription, speaker_id; column= names one",
}


def ask(urls: list[str], endpoint: str, **env: str) -> dict[str, str]:
    """What a job finds at each url: a path, or an error."""
    home = os.environ["LORAJOB_HOME"]
    names = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": f"{home}/hf", **env}
    command = [sys.executable, "-c", SCRIPT, *urls]
    done = subprocess.run(command, env=names, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def texts(path: str) -> set[tuple[str, str]]:
    check_corpus(Path(path), "hi")
    corpus = open_corpus(Path(path), "hi")
    clips = list(corpus.clips(corpus.splits))
    assert all(isinstance(it.audio, bytes) or it.audio.is_file() for it in clips)
    return {(clip.split, clip.text) for clip in clips}


@pytest.mark.slow
def test_data_sets_of_a_hub_are_read_or_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "home"))
    served = tmp_path / "served"
    parquet_shards(served_to(served, "me/parquet"))
    audiofolder(served_to(served, "me/folder"))
    parquet_shards(served_to(served, "me/gated"))
    configs = served_to(served, "me/configs")
    card = "---\nconfigs:\n- config_name: hi_in\n  data_files:\n  - split: test\n"
    put(configs / "README.md", f"{card}    path: hi_in/t-*\n---\n")
    (configs / "hi_in").mkdir()
    dataset([1], [TWO]).to_parquet(configs / "hi_in" / "t-0.parquet")
    lists = dataset([1, 2], [ONE, TWO]).add_column("words", [["a", "b"], []])
    lists = lists.add_column("count", [0, 1])
    lists.to_parquet(served_to(served, "me/lists") / "train.parquet")
    put(served_to(served, "me/script") / "script.py", "import os\n")
    good = ["hf:me/parquet", "hf:me/folder", "hf:me/configs?config=hi_in&split=test"]
    bad = ["hf:me/missing", "hf:me/gated", "hf:me/parquet?split=dev", "hf:me/script"]
    bad += ["hf:me/configs?config=ta_in", "hf:me/configs?config=hi_in&split=dev"]
    bad.append("hf:me/parquet?revision=v9")
    looked = write_for_submit(served)
    with hub_server(served, gated="me/gated", token="hf_secret") as endpoint:
        said = ask([*good, *bad, "hf:me/parquet?split=test", *looked, *TEXTS], endpoint)
        with_token = ask(["hf:me/gated"], endpoint, HF_TOKEN="hf_secret")
    parquet = {("train", ONE), ("train", TWO), ("test", THREE)}
    assert texts(said["hf:me/parquet"]) == texts(with_token["hf:me/gated"]) == parquet
    assert texts(said["hf:me/folder"]) == {("train", ONE), ("dev", ONE), ("test", ONE)}
    assert texts(said["hf:me/configs?config=hi_in&split=test"]) == {("test", TWO)}
    assert texts(said["hf:me/parquet?split=test"]) == {("test", THREE)}
    for url, found in TEXTS.items():
        if found.startswith("UsageError"):
            assert said[url] == found
        else:
            assert gzip.decompress(Path(said[url]).read_bytes()).decode() == found
    for url in bad:
        assert said[url].startswith("UsageError: corpus: hf:me/"), said[url]
        assert "\n" not in said[url] and "hf_secret" not in said[url]
    assert "does not exist, or is private" in said["hf:me/missing"]
    assert "is gated: accept its terms at" in said["hf:me/gated"]
    assert "has no split dev; its splits: train, test" in said["hf:me/parquet?split=dev"]
    assert "has no revision v9" in said["hf:me/parquet?revision=v9"]
    # The card says so, before anything is read.
    assert "has no config ta_in; its configs: hi_in" in said["hf:me/configs?config=ta_in"]
    assert "has no split dev; its splits: test" in said["hf:me/configs?config=hi_in&split=dev"]
    # What submit sees of them within two seconds.
    for url, why in looked.items():
        assert why in said[url] and "\n" not in said[url], said[url]
    # A copy of this machine is used again, without the server.
    assert str(local_copy("hf:me/parquet")) == said["hf:me/parquet"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_named():
    said = ask(["hf:me/parquet"], "http://127.0.0.1:1")
    assert said["hf:me/parquet"].startswith("StoreError: corpus: hf:me/parquet: the Hub"), said


CARD = """---
dataset_info:
  features:
  - {name: audio, dtype: audio}
  - {name: words, dtype: string}
  splits:
  - {name: train}
---
"""
TWO_CONFIGS = """---
configs:
- {config_name: hi_in, data_files: [{split: train, path: hi/train-*}]}
- {config_name: ta_in, data_files: [{split: train, path: ta/train-*}]}
---
"""


def write_for_submit(served: Path) -> dict[str, str]:
    """Write data sets of which submit can tell that a job in Hindi fails. Url -> the reason."""
    parquet_shards(served_to(served, "look/good"))
    (served_to(served, "look/test") / "data").mkdir()
    dataset([1], [ONE]).to_parquet(served / "look/test/data/test-00000-of-00001.parquet")
    english = dataset([1, 2], ["we saw it", "he went home"])
    english.to_parquet(served_to(served, "look/english") / "train.parquet")
    words = dataset([1], [ONE]).rename_column("transcription", "words")
    words.to_parquet(served_to(served, "look/words") / "train.parquet")
    put(served_to(served, "look/card") / "README.md", CARD)
    put(served_to(served, "look/folder") / "metadata.csv", "file_name,words\na.wav,x\n")
    configs = served_to(served, "look/configs")
    put(configs / "README.md", TWO_CONFIGS)
    for name, made in (("hi", dataset([1], [ONE])), ("ta", words)):
        (configs / name).mkdir()
        made.to_parquet(configs / name / "train-00000-of-00001.parquet")
    no_text = "no column text or sentence"
    return {
        "hf:look/good": "None",
        "hf:look/test": "no clips in train, dev; splits of hf:look/test: test",
        "hf:look/good?split=test": "no clips in train, dev; splits of hf:look/good: test",
        "hf:look/good?split=dev": "has no split dev; its splits: test, train",
        "hf:look/english": "2 of 2 texts are in another script",
        "hf:look/words": no_text,
        "hf:look/card": no_text,
        "hf:look/folder": no_text,
        "hf:look/configs": "has several configs; write hf:look/configs?config= and one of hi_in",
        "hf:look/configs?config=hi_in": "None",
        "hf:look/configs?config=ta_in": no_text,
    }


def served_to(served: Path, name: str) -> Path:
    folder = served / name
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("hf:", "no data set of the Hub"),
        ("hf:a/b/c", "no data set of the Hub"),
        ("hf:a/b?splits=train", "unknown parameter splits"),
        ("hf:a/b?train", "unknown parameter train"),
    ],
)
def test_a_malformed_name_is_refused(url, why):
    with pytest.raises(UsageError, match=why):
        hub.parse(url)


def test_the_name_of_a_data_set_is_no_path():
    url = "hf:google/fleurs?config=hi_in&split=train"
    assert local_path(url) is None
    assert public(url) == url
    assert hub.parse(url) == hub.HubCorpus("google/fleurs", "hi_in", ("train",))
