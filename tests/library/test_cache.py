"""What is kept by content for the next job."""

import os
from pathlib import Path

import pytest

from lorajob.errors import UsageError
from lorajob.storage import cache, places


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def keep(name: str, files: Path, text: str) -> None:
    files.mkdir(parents=True, exist_ok=True)
    (files / "sub").mkdir(exist_ok=True)
    (files / "sub" / "a.txt").write_text(text)
    cache.keep("kind", name, {"number": len(text)}, files)


def test_what_was_kept_comes_back_as_links(tmp_path: Path) -> None:
    keep("one", tmp_path / "job", "hello")
    target = tmp_path / "next"
    assert cache.lookup("kind", "one", target) == {"number": 5}
    assert (target / "sub" / "a.txt").samefile(tmp_path / "job" / "sub" / "a.txt")
    assert cache.lookup("kind", "other") is None


def test_another_file_system_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    keep("one", tmp_path / "job", "hello")
    assert cache.lookup("kind", "one", tmp_path / "next") == {"number": 5}
    assert (tmp_path / "next" / "sub" / "a.txt").read_text() == "hello"


def test_a_damaged_entry_is_removed(
    tmp_path: Path, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep("one", tmp_path / "job", "hello")
    (tmp_path / "job" / "sub" / "a.txt").write_text("other")  # a link: the kept file changes too
    assert cache.lookup("kind", "one", tmp_path / "next") is None
    assert "is removed" in caplog.text
    assert not (empty_cache / "kind" / "one").exists()


def test_the_entries_longest_unused_go_first(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        keep(f"entry-{number}", tmp_path / f"job-{number}", f"{number}" * 1000)
        entry = empty_cache / "kind" / f"entry-{number}"
        os.utime(entry, (number, number))
    assert cache.lookup("kind", "entry-0") is not None  # used: now the newest
    cache.trim(2 * 1400)
    assert sorted(path.name for path in (empty_cache / "kind").iterdir()) == ["entry-0", "entry-2"]


def test_an_entry_over_the_limit_drives_out_no_other(tmp_path: Path, empty_cache: Path) -> None:
    keep("small", tmp_path / "small", "x")
    keep("large", tmp_path / "large", "x" * 5000)
    os.utime(empty_cache / "kind" / "small", (1, 1))
    cache.trim(4000)
    assert [path.name for path in (empty_cache / "kind").iterdir()] == ["small"]


def test_no_room_for_the_files_leaves_entry_and_target_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("one", tmp_path / "job", "hello")

    def full(source: object, target: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        patch.setattr("lorajob.storage.cache.shutil.copyfile", full)
        assert cache.lookup("kind", "one", tmp_path / "next") is None
    assert not list((tmp_path / "next").rglob("*.txt"))
    assert cache.lookup("kind", "one", tmp_path / "next") == {"number": 5}


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path, empty_cache: Path) -> None:
    keep("one", tmp_path / "job", "hello")
    for name in (".new-a", ".gone-b"):
        (empty_cache / "kind" / name).mkdir()
        os.utime(empty_cache / "kind" / name, (1, 1))
    (empty_cache / "kind" / ".new-now").mkdir()
    cache.trim(10**9)
    assert sorted(path.name for path in (empty_cache / "kind").iterdir()) == [".new-now", "one"]


def test_nothing_is_kept_where_the_limit_is_0(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAJOB_CACHE_GB", "0")
    keep("one", tmp_path / "job", "hello")
    assert not empty_cache.exists()
    monkeypatch.setenv("LORAJOB_CACHE_GB", "lots")
    with pytest.raises(UsageError, match=r"LORAJOB_CACHE_GB: 'lots' is not a number"):
        keep("one", tmp_path / "job", "hello")
