"""Corpora behind a url whose server is busy, plain, or given a new release meanwhile."""

import shutil
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from fsspec.implementations.http import HTTPFileSystem

from lorajob.corpora import remote
from lorajob.errors import UsageError
from lorajob.storage import places
from lorajob.storage.store import DamageError, RefusedError, Store, StoreError, store_errors
from lorajob.worker.artifacts import workplace
from lorajob.worker.artifacts.job_store import JobStore
from tests.support.web_server import Archive


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))


def test_a_web_server_that_is_busy_has_not_lost_its_corpus(web: Archive, tmp_path: Path):
    for status in (503, 403):
        web.status = status
        with pytest.raises(StoreError, match=f"is unavailable: {status}"):
            remote.fetch(web.url)
        with pytest.raises(StoreError) as told:
            Store(web.url).download("", tmp_path / "copy")
        assert not isinstance(told.value, DamageError)
    with pytest.raises(StoreError, match="is unavailable"):
        remote.fetch("http://127.0.0.1:1/cv-hi.tar.gz")
    web.status = 404
    with pytest.raises(UsageError, match="does not exist"):
        remote.fetch(web.url)
    web.status = 200
    assert remote.fetch(web.url).read_bytes() == web.data


def test_a_machine_that_a_server_refuses_is_told_from_a_server_that_is_away(web: Archive):
    for status, kind in ((401, "refused"), (403, "refused"), (429, "store"), (502, "store")):
        web.status = status
        with pytest.raises(StoreError, match=f"is unavailable: {status}") as told:
            remote.fetch(web.url)
        assert told.value.kind == kind


def test_a_certificate_that_is_not_trusted_is_no_fault_of_the_url():
    connection: Any = SimpleNamespace(host="speech", port=443, ssl=True, is_ssl=True)
    for error in (
        ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired"),
        aiohttp.ClientConnectorCertificateError(
            connection, ssl.SSLCertVerificationError(1, "self-signed certificate")
        ),
    ):
        said = r"https://speech/cv-hi.tar.gz is unavailable: .*certificate"
        with pytest.raises(RefusedError, match=said), store_errors("https://speech/cv-hi.tar.gz"):
            raise error


def test_a_page_for_a_login_is_not_taken_for_a_corpus(web: Archive):
    archive, web.data = web.data, b"\n<!DOCTYPE html><title>Guest network: log in</title>"
    with pytest.raises(StoreError, match=r"a web page came in place of the file") as told:
        remote.fetch(web.url)
    assert told.value.kind == "store"
    web.data = archive
    assert remote.fetch(web.url).read_bytes() == archive


def test_a_server_that_knows_no_ranges_is_read_from_the_beginning(web: Archive, monkeypatch):
    web.ranges = False
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    cut_off(web.url, 5)
    assert remote.fetch(web.url).read_bytes() == web.data


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_may_take_its_time_as_long_as_it_sends(web: Archive, monkeypatch, ranges):
    monkeypatch.setattr(aiohttp.client, "DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=0.4))
    monkeypatch.setattr("lorajob.storage.store.READ_SECONDS", 5)
    HTTPFileSystem.clear_instance_cache()  # with the timeouts of another test
    web.ranges, web.pause_seconds = ranges, 0.05
    assert remote.fetch(web.url).read_bytes() == web.data


def test_a_web_server_that_falls_silent_is_not_waited_for_for_ever(web: Archive, monkeypatch):
    monkeypatch.setattr("lorajob.storage.store.READ_SECONDS", 0.2)
    web.pause_seconds = 1.5
    with pytest.raises(StoreError, match="is unavailable"):
        remote.fetch(web.url)


def test_a_corpus_that_is_replaced_meanwhile_is_no_mixture(web: Archive, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    calls = iter(range(3))

    def replace() -> None:
        if next(calls, None) is None and web.data[0] != 255:
            web.data, web.modified = b"\xff" * len(web.data), "Tue, 02 Jan 2024 00:00:00 GMT"

    with pytest.raises(StoreError, match="was replaced while it was fetched"):
        remote.fetch(web.url, replace)
    assert remote.fetch(web.url).read_bytes() == web.data


def cut_off(url: str, after: int) -> None:
    """Fetch some chunks of it, and no more."""
    calls = iter(range(after))

    def cut() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.fetch(url, cut)


def test_what_was_cut_off_of_an_older_release_does_not_stay(web: Archive, monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    cut_off(web.url, 5)
    (old,) = tmp_path.rglob(".part-*")
    web.data, web.modified = b"new" * 1000, "Tue, 02 Jan 2024 00:00:00 GMT"
    cut_off(web.url, 2)
    (new,) = tmp_path.rglob(".part-*")
    assert new != old
    assert remote.fetch(web.url).read_bytes() == web.data
    assert not list(tmp_path.rglob(".part-*"))


def test_no_room_is_made_of_what_is_being_fetched(web: Archive, monkeypatch):
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    calls = iter(range(5))
    assert remote.fetch(f"{web.url}?other=1.tar.gz").read_bytes() == web.data

    def make_room() -> None:
        if next(calls, None) is None:
            remote.make_room(0)

    assert remote.fetch(web.url, make_room).read_bytes() == web.data
    assert len(list(places.corpora().glob("*/entry.json"))) == 1  # the other one went


def test_a_new_release_waits_until_the_old_one_is_read(web: Archive):
    path, old = remote.fetch(web.url), web.data
    web.data, web.modified = b"new", "Tue, 02 Jan 2024 00:00:00 GMT"
    waits = []

    def look() -> None:
        waits.append(path.read_bytes())
        if len(waits) == 20:
            raise KeyboardInterrupt

    with remote.in_use(web.url) as here, pytest.raises(KeyboardInterrupt):
        remote.fetch(web.url, look)
    assert here and set(waits) == {old} and path.read_bytes() == old
    assert remote.fetch(web.url).read_bytes() == b"new"


def test_room_is_made_beside_workers_that_rename_and_remove(tmp_path: Path, monkeypatch):
    jobs, twins = tmp_path / "jobs", ("a", "b")
    for name in twins:  # two folders that lie in one, and two files
        (jobs / "hi-1" / "checkpoints" / name).mkdir(parents=True)
        (jobs / "hi-1" / "checkpoints" / name / "weights").write_bytes(b"w")
        (places.corpora() / "c").mkdir(parents=True, exist_ok=True)
        (places.corpora() / "c" / name).write_bytes(b"x")
    stat = Path.stat

    def stat_and_lose_the_other(path: Path, **options):
        found = stat(path, **options)
        for gone in (path.with_name(twin) for twin in twins if path.parent.name == "c"):
            if gone != path:
                gone.unlink(missing_ok=True)
        if path.name == "weights":
            for twin in {*twins} - {path.parent.name}:
                shutil.rmtree(path.parent.with_name(twin), ignore_errors=True)
        return found

    monkeypatch.setattr(Path, "stat", stat_and_lose_the_other)
    remote.make_room(1e9)
    workplace.trim_copies(JobStore(f"file://{tmp_path}/store/hi-1", jobs), 1e9)
    assert (jobs / "hi-1").is_dir() and len(list((places.corpora() / "c").iterdir())) == 1
