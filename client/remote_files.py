"""Files of a job that a server sends as tar files: checked, and written below one folder only."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from lorajob.client.download import Download
from lorajob.client.web_api import Query, WebApi, error_of, events, job_path
from lorajob.errors import ServiceError, StageError
from lorajob.job.jobdir import hash_files

INDEX = "bundle.json"  # of a bundle: it lists sizes and hashes of all other files
PIECE_BYTES = 1 << 20


def extract(api: WebApi, path: str, root: Path, query: Query | None = None) -> None:
    """Download a tar file and unpack it below `root`, and nowhere else.

    A lost connection is resumed. Raises StageError if the file is cut off.
    """
    with _opened(api, path, query) as tar:
        tar.extractall(root, filter="data")


@contextmanager
def _opened(api: WebApi, path: str, query: Query | None = None) -> Iterator[tarfile.TarFile]:
    try:
        # A Download has all that tarfile needs to read a stream.
        with (
            Download(api, path, query) as file,
            tarfile.open(fileobj=cast("Any", file), mode="r|") as tar,
        ):
            yield tar
    except tarfile.FilterError as error:
        raise StageError(f"the download has a file that is refused: {error}") from None
    except tarfile.TarError as error:
        raise StageError(f"the download was cut off: {error}") from None


def export_bundle(
    api: WebApi, job: str, folder: Path, asked: Query, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Have the server make a bundle, download it to `folder`, and check its hashes.

    Returns notes about it. `say` gets the name of each part. Raises LorajobError.
    """
    with api.open("GET", f"{job_path(job)}/export", asked) as answer:
        for name, _, data in events(answer):
            if name == "error":
                raise error_of(data.get("code"), str(data["message"]))
            if name == "done":
                break
            say(str(data["text"]))
        else:
            raise ServiceError(f"the export of {job} was cut off; try again")
    say("downloading")
    path = f"/exports/{quote(str(data['export']), safe='')}"
    extract(api, path, folder)
    _check_bundle(folder, str(data["index_sha256"]))
    notes = data["notes"]
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def _check_bundle(folder: Path, index_sha256: str) -> None:
    """Raise StageError unless the files of `folder` are those that bundle.json lists."""
    index = folder / INDEX
    data = index.read_bytes() if index.is_file() else b""
    if hashlib.sha256(data).hexdigest() != index_sha256:
        raise StageError(f"{INDEX}: is damaged or missing in the download; export the job again")
    listed = json.loads(data)["files"]
    found = hash_files(folder)
    del found[INDEX]
    for name in sorted(listed.keys() | found.keys()):
        if listed.get(name) != found.get(name):
            raise StageError(f"{name}: is not as the server made it; export the job again")


def fetch_curves(api: WebApi, job: str, folder: Path) -> int:
    """Download TensorBoard's files of a job below `folder`; those of an ended attempt are removed.

    Files grow while a stage runs, and TensorBoard keeps them open. So each is written in place.
    Returns how many there are.
    """
    kept: set[Path] = set()
    with _opened(api, f"{job_path(job)}/tensorboard") as tar:
        for member in tar:
            checked = tarfile.data_filter(member, str(folder))
            source = tar.extractfile(checked) if checked.isfile() else None
            if source is None:
                continue
            path = folder / checked.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if path.exists() else "wb") as file:
                while piece := source.read(PIECE_BYTES):
                    file.write(piece)
                file.truncate()
            kept.add(path)
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    return len(kept)
