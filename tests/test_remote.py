"""Corpora behind a url whose server is busy, plain, or given a new release meanwhile."""

from pathlib import Path

import pytest

from lorajob.corpora import remote
from lorajob.errors import UsageError
from lorajob.stores import DamageError, Store, StoreError
from tests.web_server import Archive, web

__all__ = ["web"]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORAJOB_HOME", str(tmp_path))


def test_a_web_server_that_is_busy_has_not_lost_its_corpus(web: Archive, tmp_path: Path):
    for status in (503, 403):
        web.status = status
        with pytest.raises(StoreError, match=f"does not serve: {status}"):
            remote.fetch(web.url)
        with pytest.raises(StoreError) as told:
            Store(web.url).download("", tmp_path / "copy")
        assert not isinstance(told.value, DamageError)
    with pytest.raises(StoreError, match="does not serve"):
        remote.fetch("http://127.0.0.1:1/cv-hi.tar.gz")
    web.status = 404
    with pytest.raises(UsageError, match="does not exist"):
        remote.fetch(web.url)
    web.status = 200
    assert remote.fetch(web.url).read_bytes() == web.data


def test_a_server_that_knows_no_ranges_is_read_from_the_beginning(web: Archive, monkeypatch):
    web.ranges = False
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    calls = iter(range(5))

    def cut() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.fetch(web.url, cut)
    assert remote.fetch(web.url).read_bytes() == web.data
