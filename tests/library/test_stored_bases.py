"""Base models of one machine, and machines that have only a store in common with it."""

import shutil
from pathlib import Path

import pytest

from lorajob.errors import ModelError, UsageError
from lorajob.job.jobdir import write_json
from lorajob.storage.bases import (
    bring_base,
    fetch_base,
    is_stored_base,
    key_of,
    stored_folder,
    want_again,
)
from lorajob.storage.store import DamageError, Store
from lorajob.tasks.bases import YOUNG_SECONDS, drop_bases
from lorajob.tasks.jobs import Jobs
from lorajob.whisper.base_model import local_model
from lorajob.whisper.identity import identify
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from tests.support.command import job_record

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def base(tiny_whisper: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_whisper, tmp_path / "my base"))
    (folder / "optimizer.pt").write_bytes(b"not a part of the model")
    (folder / "secrets.json").write_text("{}")
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that machines share; LORAJOB_HOME is the home of another machine."""
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "there"))
    return Store(f"file://{tmp_path}/store/.bases")


def uploads(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    upload = Store.upload

    def noted(self: Store, path: Path, name: str) -> None:
        done.append(path.name)
        upload(self, path, name)

    monkeypatch.setattr(Store, "upload", noted)
    return done


def test_a_model_is_brought_once_and_is_the_same_there(
    base: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, done = identify(base).sha256, uploads(store, monkeypatch)
    url = bring_base(base, store)
    assert url == f"{store.url}/{key_of(url)}/my-base" and is_stored_base(url)
    assert "model.safetensors" in done and not {"optimizer.pt", "secrets.json"} & set(done)
    done.clear()
    copy = base.rename(base.with_name("other name"))
    assert bring_base(copy, store) == url == want_again(url, store)
    assert done == []
    with pytest.raises(ModelError, match="is not on this machine"):
        local_model(url, download=False)
    shutil.rmtree(copy)
    here = local_model(url)
    assert here == local_model(url, download=False) and here.name == "my-base"
    assert identify(here).sha256 == before
    inode = (here / "model.safetensors").stat().st_ino
    shutil.rmtree(store.url.removeprefix("file://"))
    assert (fetch_base(url) / "model.safetensors").stat().st_ino == inode


def test_another_content_is_refused_and_is_another_model(base: Path, store: Store) -> None:
    url = bring_base(base, store)
    here = fetch_base(url)
    write_json(here / "generation_config.json", {"max_length": 7})
    with pytest.raises(ModelError, match=r"another model on this machine: .*generation_config"):
        stored_folder(url)
    fetch_base(url)
    assert stored_folder(url) == here
    shutil.rmtree(here.parent.parent)
    write_json(base / "config.json", {"model_type": "whisper"})
    other = bring_base(base, store)
    assert key_of(other) != key_of(url)
    there = Path(store.url.removeprefix("file://"))
    shutil.copyfile(base / "config.json", there / str(key_of(url)) / "files" / "config.json")
    with pytest.raises(DamageError, match=r"config.json is not the file that the model's hash nam"):
        fetch_base(url)
    assert stored_folder(url) is None
    entry = there / str(key_of(url)) / "base.json"
    shutil.copyfile(there / str(key_of(other)) / "base.json", entry)
    with pytest.raises(DamageError, match=r"base.json is damaged"):
        fetch_base(url)


def test_a_link_out_of_the_folder_is_refused_but_for_the_hubs_own(
    base: Path, store: Store, tmp_path: Path
) -> None:
    blobs = tmp_path / "models--acme--hindi" / "blobs"
    snapshot = blobs.parent / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    shutil.copytree(base, snapshot)
    (snapshot / "vocab.json").unlink(missing_ok=True)
    (snapshot / "model.safetensors").replace(blobs / "1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    url = bring_base(snapshot, store)
    assert identify(local_model(url)).commit == COMMIT
    (tmp_path / "secret").write_text("{}")
    (snapshot / "vocab.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"vocab.json is a link out of its folder"):
        bring_base(snapshot, store)


def test_prune_keeps_the_models_that_jobs_name(
    base: Path,
    redis_server: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path / "there"))
    settings = redis_server.model_copy(update={"artifacts": f"file://{tmp_path}/store"})
    jobs, store = Jobs(settings), Store(f"file://{tmp_path}/store/.bases")
    url = bring_base(base, store)
    key = str(key_of(url))
    assert drop_bases(jobs) == []  # a job may follow
    monkeypatch.setattr("lorajob.tasks.bases.YOUNG_SECONDS", -YOUNG_SECONDS)
    record = job_record(tmp_path / "store", "hi-0000000a").model_copy(update={"base_model": url})
    records = Records(jobs.redis)
    records.create(record)
    assert drop_bases(jobs) == []
    records.delete(record.id)
    spec = tmp_path / "store" / "hi-0000000b" / "spec.json"
    write_json(spec, {"base_model": url})
    assert drop_bases(jobs) == []  # of another service
    spec.unlink()
    assert drop_bases(jobs) == [key] and store.folders() == []
    with pytest.raises(UsageError, match="is not in"):
        want_again(url, store)
