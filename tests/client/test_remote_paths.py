"""What a client says about paths of its own machine, and what it takes from a server and sends."""

import shlex
import subprocess
import tarfile
from datetime import date
from pathlib import Path

import pytest

from lorajob.client.remote import RemoteClient, checked_id
from lorajob.client.remote_paths import explained
from lorajob.errors import ServiceError, UsageError


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("evaluate.text", "is no file on this machine"),
        ("evaluate.glossary", "does not exist"),
        ("augment.noise_folder", "is not a folder on this machine; is it mounted?"),
    ],
)
def test_an_error_about_a_file_that_is_here_only_says_whose_paths_are_meant(
    tmp_path: Path, setting: str, why: str
) -> None:
    here, away = tmp_path / "here", tmp_path / "away"
    here.touch()
    part, name = setting.split(".")
    own = why.replace("this", "the service's")
    told = explained(f"{setting}: {here} {why}", [{"language": "hi", part: {name: str(here)}}])
    assert told.startswith(f"{setting}: {here} {own}; it exists on this machine, but")
    assert ("or give a url" in told) == setting.startswith("evaluate.")
    told = explained(f"{setting}: {away} {why}", [{part: {name: str(away)}}])
    assert told == f"{setting}: {away} {own}"


@pytest.mark.parametrize("name", ["clips", "-x", "a:b", "linked"])
def test_the_advised_command_packs_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder, work = tmp_path / name, tmp_path / "work"
    target = tmp_path / "target" if name == "linked" else folder
    for made in (target, work):
        made.mkdir()
    (target / "clips.tsv").write_text("audio\ttext\n")
    if name == "linked":
        folder.symlink_to(target)
    told = explained(f"corpus: {folder} does not exist", [{"corpus": str(folder)}])
    command = told.split("pack it with `")[1].split("`")[0]
    subprocess.run(shlex.split(command), cwd=work, check=True)
    with tarfile.open(work / f"{name}.tar.gz") as file:
        names = [Path(it).as_posix() for it in file.getnames()]
    assert names == [name, f"{name}/clips.tsv"]


@pytest.mark.parametrize("name", ["../hi-1", "/tmp/hi-1", "hi-1/..", ""])
def test_a_name_of_a_server_is_no_path(name: str) -> None:
    assert checked_id("hi-0000000a") == "hi-0000000a"
    with pytest.raises(ServiceError, match="which is not a job's id"):
        checked_id(name)


def test_settings_that_json_cannot_hold_are_refused_in_one_line() -> None:
    client = RemoteClient("http://127.0.0.1:1")
    with pytest.raises(UsageError, match="cannot be sent as JSON: keys must be"):
        client.post_job({"train": {date(2026, 1, 1): 1}}, {})
