"""Reads a tar archive as a stream. Nothing is unpacked, and nothing in the archive is trusted."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from lorajob.errors import CorpusError

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
MAX_AUDIO_BYTES = 64 << 20  # 30 s of 8-channel 48 kHz float is 46 MB
MAX_RECORDING_BYTES = 1 << 30  # of which a corpus gives segments
MAX_TABLE_BYTES = 4 << 30  # English's largest table is under 1 GB
MAX_HEADER_BYTES = 1 << 20  # of long names and pax headers, which tarfile reads into memory
MAX_MEMBERS = 20_000_000
# Most unpacked bytes for each packed byte. Common Voice packs to about 0.95 of its size, plain wav
# to a half. A malicious archive can reach 1032 with deflate.
MAX_RATIO = 50
FREE_BYTES = 1 << 30  # unpacked bytes always allowed: for tiny archives the ratio means little

# How compressed archives begin: gzip, bzip2 and xz.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")

_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class CutOffError(CorpusError):
    """An archive ends too early, or is no archive at all."""


class Archive:
    """A tar archive, compressed or not. Each call of `members()` reads it once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo, tarfile.TarFile]]:
        """Yield (name, member, archive) for each regular file. `read` it before the next one.

        Raises CorpusError for a damaged archive, for links, devices, absolute names and `..`, and
        for an archive that unpacks to far more than its own size (MAX_RATIO).
        """
        budget = FREE_BYTES + MAX_RATIO * self.path.stat().st_size
        unpacked = count = 0
        with self._damage_named(), self._open() as tar:
            while (member := tar.next()) is not None:
                # Else tarfile keeps a kilobyte for each member that it has seen.
                cast(Any, tar).members.clear()
                unpacked += member.size
                count += 1
                if unpacked > budget or count > MAX_MEMBERS:
                    raise CorpusError(f"{self.path}: unpacks to more than a corpus could; refused")
                name = self._safe_name(member)
                # macOS adds files that begin with "._".
                if member.isfile() and not name.name.startswith("._"):
                    yield name, member, tar

    def _open(self) -> tarfile.TarFile:
        with self.path.open("rb") as file:
            # Audio in an archive that is not compressed is skipped without being read.
            mode = "r|*" if file.read(6).startswith(_COMPRESSED) else "r:"
        try:
            return tarfile.open(self.path, cast(Any, mode), tarinfo=_BoundedInfo)
        # tarfile's error for a gzip header that is cut off.
        except TypeError:
            raise tarfile.ReadError("ends in its header") from None

    def read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> bytes:
        """The bytes of the current member. Raises CorpusError if it is over `max_bytes`."""
        with self.stream(tar, member, max_bytes) as file:
            return file.read()

    @contextmanager
    def stream(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int
    ) -> Iterator[IO[bytes]]:
        """The current member as a file. Raises CorpusError if it is over `max_bytes`."""
        if member.size > max_bytes:
            raise CorpusError(
                f"{self.path}: {member.name} is {member.size:,} bytes; allowed: {max_bytes:,}"
            )
        file = tar.extractfile(member)
        if file is None:
            raise CorpusError(f"{self.path}: {member.name} is not a regular file")
        with self._damage_named(), file:
            yield file

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
            raise CutOffError(
                f"{self.path}: not a whole tar archive ({error}); download it again"
            ) from None

    def _safe_name(self, member: tarfile.TarInfo) -> PurePosixPath:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise CorpusError(f"{self.path}: {member.name!r} points outside the archive; refused")
        if not (member.isdir() or member.isfile()) or member.issparse():
            raise CorpusError(
                f"{self.path}: {member.name!r} is not a plain file or folder; refused"
            )
        return name


class _BoundedInfo(tarfile.TarInfo):
    """A member that limits the size of extended headers, which tarfile reads into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]  # private: typeshed lacks it
