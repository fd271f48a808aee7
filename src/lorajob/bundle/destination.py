"""Where a bundle goes: a folder, a tar, a store behind a url, or a repository of the Hub.

A bundle is made in a scratch folder and then put in its place as a whole:

folder, tar   one rename
store         bundle.json, which lists all files, is the last file that is written
Hub           one commit
"""

import os
import re
import shutil
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from lorajob.bundle.layout import INDEX
from lorajob.errors import LorajobError, NetworkError, UsageError, fault_of, first_line
from lorajob.job.jobdir import sync_tree
from lorajob.storage import places
from lorajob.storage.store import WEB, Store
from lorajob.storage.urls import is_named, is_url, public

HUB = "hf:"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
TAR_MODES: dict[str, Literal["w", "w:gz"]] = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
OTHER_ARCHIVES = (".zip", ".7z", ".tar.bz2", ".tar.xz", ".tar.zst", ".gz")


class Destination(ABC):
    """A place for one bundle."""

    repo: str | None = None  # OWNER/NAME, of a repository of the Hub

    @abstractmethod
    def check(self, force: bool) -> None:
        """Raise LorajobError if the place is taken (without `force`) or cannot be written."""

    @abstractmethod
    def put(self, folder: Path, force: bool) -> str:
        """Put the bundle in `folder` in its place. Returns what to show. Raises LorajobError."""

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder to make the bundle in. It is removed in the end if it is still there."""
        with tempfile.TemporaryDirectory(prefix="lorajob-export-") as made:
            yield Path(made)


def find_destination(text: str) -> Destination:
    """The destination that a path, a url or hf:OWNER/NAME names. Raises UsageError."""
    if text.startswith(HUB) and "://" not in text:
        return HubPlace(text.removeprefix(HUB))
    if is_named(text):
        raise UsageError(
            f"DEST: {text}: give a folder, FILE.tar, s3://BUCKET/PATH or hf:OWNER/NAME"
        )
    if is_url(text):
        return StorePlace(text)
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100  # a link stays a link
    for ending, mode in TAR_MODES.items():
        if path.name.endswith(ending):
            return TarPlace(path, mode)
    if path.name.endswith(OTHER_ARCHIVES):
        raise UsageError(f"DEST: {path.name}: archives are {', '.join(TAR_MODES)}")
    return FolderPlace(path)


class FolderPlace(Destination):
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, force: bool) -> None:
        if not os.path.lexists(self.path):
            return
        if not force:
            raise UsageError(f"DEST: {self.path} exists; --force replaces it")
        kept = (Path.cwd(), Path.home(), places.home())
        here = self.path.resolve()
        if any(it.resolve().is_relative_to(here) for it in kept) or self.path.is_mount():
            raise UsageError(f"DEST: {self.path} holds more than a bundle; name a folder in it")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def put(self, folder: Path, force: bool) -> str:
        for path in (folder, *folder.rglob("*")):  # safetensors writes for its user alone
            path.chmod(0o755 if path.is_dir() else 0o644)
        sync_tree(folder)
        self.check(force)  # another export may have made it meanwhile
        old = self.path.with_name(f"{folder.name}.old")
        if os.path.lexists(self.path):
            self.path.rename(old)
        try:
            folder.rename(self.path)
        except OSError:
            if os.path.lexists(old):
                old.rename(self.path)
            raise
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
        return str(self.path)


class TarPlace(FolderPlace):
    """A tar on this machine, with the bundle in a folder of the tar's name."""

    def __init__(self, path: Path, mode: Literal["w", "w:gz"]) -> None:
        super().__init__(path)
        self.mode = mode

    def check(self, force: bool) -> None:
        if self.path.is_dir():
            raise UsageError(f"DEST: {self.path} is a folder; name a file")
        if os.path.lexists(self.path) and not force:
            raise UsageError(f"DEST: {self.path} exists; --force replaces it")

    def put(self, folder: Path, force: bool) -> str:
        part = self.path.with_name(f"{folder.name}.part")
        inner = self.path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
        try:
            with tarfile.open(part, self.mode) as tar:
                tar.add(folder, arcname=inner, filter=_anonymous)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            self.check(force)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
        return str(self.path)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user of this machine."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() else 0o644
    return entry


class StorePlace(Destination):
    """A folder in a bucket, or a tar there."""

    def __init__(self, url: str) -> None:
        self.shown = public(url)
        parts = urlsplit(url)
        if parts.scheme in WEB or "::" in url:
            raise UsageError(f"DEST: {self.shown} cannot be written; s3://BUCKET/PATH can")
        ending = next((it for it in TAR_MODES if parts.path.endswith(it)), None)
        self.tar = None if ending is None else TAR_MODES[ending]
        where, _, self.name = url.rstrip("/").rpartition("/") if self.tar else (url, "", "")
        self.store = Store(where)

    def check(self, force: bool) -> None:
        taken = self.store.info(self.name) is not None if self.tar else bool(self.store.names())
        if taken and not force:
            raise UsageError(f"DEST: {self.shown} exists; --force replaces it")

    def put(self, folder: Path, force: bool) -> str:
        self.check(force)
        if self.tar is not None:
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                path = Path(scratch, self.name)
                TarPlace(path, self.tar).put(folder, force)
                self.store.upload(path, self.name)
            return self.shown
        old = self.store.names()
        if INDEX in old:  # from here on the old bundle is not whole any more
            self._remove(INDEX)
        files = [it.relative_to(folder).as_posix() for it in folder.rglob("*") if it.is_file()]
        done: list[str] = []
        try:
            for name in sorted(files, key=lambda it: (it == INDEX, it)):
                if name == INDEX:
                    for left in old.keys() - set(files):
                        self._remove(left)
                done.append(name)
                self.store.upload(folder / name, name)
        # After Ctrl-C, too, no half export may stay.
        except BaseException:
            for name in done:
                with suppress(LorajobError):
                    self._remove(name)
            raise
        return self.shown

    def _remove(self, name: str) -> None:
        self.store.remove(name)


class HubPlace(Destination):
    """A repository of the Hugging Face Hub. HF_TOKEN may write to it, HF_ENDPOINT names another."""

    def __init__(self, name: str, private: bool = False) -> None:
        if not REPO.fullmatch(name):
            raise UsageError(f"DEST: {HUB}{name} is no repository; write hf:OWNER/NAME")
        self.repo: str = name
        self.private = private

    def check(self, force: bool) -> None:
        from huggingface_hub import get_token

        if get_token() is None:
            raise UsageError(
                f"DEST: {HUB}{self.repo}: no token; set HF_TOKEN to one that may write there"
            )
        with _hub_errors(self.repo):
            if self._exists() and not force:
                raise UsageError(
                    f"DEST: {HUB}{self.repo} exists; --force replaces its files in a new commit"
                )

    def put(self, folder: Path, force: bool) -> str:
        from huggingface_hub import HfApi

        api = HfApi(library_name="lorajob")
        with _hub_errors(self.repo):
            new = not self._exists()
            api.create_repo(self.repo, private=self.private, exist_ok=force)
            try:
                done = api.upload_folder(
                    repo_id=self.repo,
                    folder_path=folder,
                    commit_message="Upload a model tuned by lorajob",
                    delete_patterns="*" if force and not new else None,
                )
            except BaseException:
                if new:  # an empty repository would be in the way of the next try
                    with suppress(Exception):
                        api.delete_repo(self.repo, missing_ok=True)
                raise
        return str(done.commit_url)

    def _exists(self) -> bool:
        from huggingface_hub import HfApi

        return HfApi(library_name="lorajob").repo_exists(self.repo)


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of the Hub into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except LorajobError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UsageError(
                f"DEST: {HUB}{repo}: the Hub refuses this token; HF_TOKEN must be one that may "
                f"write there: {first_line(error)}"
            ) from None
        raise NetworkError(f"DEST: {HUB}{repo}: the Hub answers: {first_line(error)}") from None
    except ValueError as error:  # of the card or the name
        raise UsageError(f"DEST: {HUB}{repo}: {' '.join(str(error).split())}") from None
    except Exception as error:
        if fault_of(error) is None or isinstance(error, FileNotFoundError):
            raise
        raise NetworkError(
            f"DEST: {HUB}{repo}: the Hub is unavailable: {first_line(error)}"
        ) from None
