"""Corpora that tests send to a service."""

import hashlib
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tests.support.corpora import write_corpus


def packed(folder: Path, name: str = "cv हिन्दी.tar.gz") -> Path:
    """An archive of a small corpus, which the service does not have."""
    (inside := folder / "inside").mkdir()
    write_corpus(inside / "manifest.csv")
    with tarfile.open(folder / name, "w:gz") as tar:
        for path in sorted(inside.iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(inside)
    return folder / name


def asked(data: bytes, **changes: Any) -> dict[str, Any]:
    """The query of a request that sends some data."""
    digest = hashlib.sha256(data).hexdigest()
    return {"name": "hi.tar", "sha256": digest, "bytes": len(data)} | changes
