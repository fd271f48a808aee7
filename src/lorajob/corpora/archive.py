"""Reading a tar archive as a stream: nothing is unpacked, nothing in it is trusted."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from lorajob.errors import CorpusError

MAX_AUDIO_BYTES = 64 << 20  # 30 s of 8-channel 48 kHz float is 46 MB
MAX_TABLE_BYTES = 4 << 30  # English's largest table is under 1 GB
MAX_HEADER_BYTES = 1 << 20  # long names and pax headers, which tarfile reads whole
MAX_MEMBERS = 20_000_000
# Common Voice packs to about 0.95 of its size, plain wav to a half; deflate can claim 1032
MAX_RATIO = 50
FREE_BYTES = 1 << 30  # for archives so small that a ratio says nothing

_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class Archive:
    """A tar archive, compressed or not, read once through per `members()`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[tuple[PurePosixPath, tarfile.TarInfo, tarfile.TarFile]]:
        """Each regular file: its name, itself, the archive to `read` it from before the next.

        Raises CorpusError for a damaged archive, for links, devices, absolute names and `..`,
        and for one that would unpack to absurdly more than it is.
        """
        budget = FREE_BYTES + MAX_RATIO * self.path.stat().st_size
        unpacked = count = 0
        with self._damage_named(), tarfile.open(self.path, "r|*", tarinfo=_BoundedInfo) as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # tarfile keeps a kilobyte for each it has seen
                unpacked += member.size
                count += 1
                if unpacked > budget or count > MAX_MEMBERS:
                    raise CorpusError(f"{self.path}: unpacks to more than a corpus could; refused")
                name = self._safe_name(member)
                if member.isfile() and not name.name.startswith("._"):  # macOS puts those beside
                    yield name, member, tar

    def read(self, tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> bytes:
        """The bytes of the current member. Raises CorpusError where they are over `max_bytes`."""
        with self.stream(tar, member, max_bytes) as file:
            return file.read()

    @contextmanager
    def stream(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int
    ) -> Iterator[IO[bytes]]:
        """The current member as a file. Raises CorpusError where it is over `max_bytes`."""
        if member.size > max_bytes:
            raise CorpusError(
                f"{self.path}: {member.name} is {member.size:,} bytes; allowed: {max_bytes:,}"
            )
        file = tar.extractfile(member)
        if file is None:
            raise CorpusError(f"{self.path}: {member.name} is no regular file")
        with self._damage_named(), file:
            yield file

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
            raise CorpusError(
                f"{self.path}: not a whole tar archive ({error}); download it again"
            ) from None

    def _safe_name(self, member: tarfile.TarInfo) -> PurePosixPath:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts:
            raise CorpusError(f"{self.path}: {member.name!r} points outside the archive; refused")
        if not (member.isdir() or member.isfile()) or member.issparse():
            raise CorpusError(f"{self.path}: {member.name!r} is no plain file or folder; refused")
        return name


class _BoundedInfo(tarfile.TarInfo):
    """A member whose extended headers are of sane size; tarfile reads those into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _HEADERS and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]  # private: typeshed lacks it
