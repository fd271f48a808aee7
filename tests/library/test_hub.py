"""Data sets of a Hub: what `hf:OWNER/NAME` reads, and one line for what it cannot read."""

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
from lorajob.corpora import check_remote, local_copy
from lorajob.errors import LorajobError
said = {}
for url in sys.argv[1:]:
    try:
        check_remote(url)
        said[url] = str(local_copy(url))
    except LorajobError as error:
        said[url] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""


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
    put(served_to(served, "me/script") / "script.py", "import os\n")
    good = ["hf:me/parquet", "hf:me/folder", "hf:me/configs?config=hi_in&split=test"]
    bad = ["hf:me/missing", "hf:me/gated", "hf:me/parquet?split=dev", "hf:me/script"]
    bad += ["hf:me/configs?config=ta_in", "hf:me/configs?config=hi_in&split=dev"]
    bad.append("hf:me/parquet?revision=v9")
    with hub_server(served, gated="me/gated", token="hf_secret") as endpoint:
        said = ask([*good, *bad, "hf:me/parquet?split=test"], endpoint)
        with_token = ask(["hf:me/gated"], endpoint, HF_TOKEN="hf_secret")
    parquet = {("train", ONE), ("train", TWO), ("test", THREE)}
    assert texts(said["hf:me/parquet"]) == texts(with_token["hf:me/gated"]) == parquet
    assert texts(said["hf:me/folder"]) == {("train", ONE), ("dev", ONE), ("test", ONE)}
    assert texts(said["hf:me/configs?config=hi_in&split=test"]) == {("test", TWO)}
    assert texts(said["hf:me/parquet?split=test"]) == {("test", THREE)}
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
    # A copy of this machine is used again, without the server.
    assert str(local_copy("hf:me/parquet")) == said["hf:me/parquet"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_named():
    said = ask(["hf:me/parquet"], "http://127.0.0.1:1")
    assert said["hf:me/parquet"].startswith("StoreError: corpus: hf:me/parquet: the Hub"), said


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
