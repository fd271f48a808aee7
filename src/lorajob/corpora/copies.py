"""Copies of some files of a tar archive, in one temporary file. A tar cannot be read by name."""

import io
import os
import tempfile
import weakref
from typing import IO, Any

from lorajob.storage import places

CHUNK_BYTES = 1 << 20


class Copies:
    """Files by name, in a temporary file that ends with this object."""

    def __init__(self) -> None:
        places.home().mkdir(parents=True, exist_ok=True)
        # The finalizer closes it.
        self._file = tempfile.TemporaryFile(dir=places.home())  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._spans: dict[str, tuple[int, int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._spans

    def add(self, name: str, file: IO[bytes]) -> None:
        """Copy a file. A later one of the same name replaces it."""
        start = self._file.seek(0, os.SEEK_END)
        while chunk := file.read(CHUNK_BYTES):
            self._file.write(chunk)
        self._spans[name] = start, self._file.tell()

    def open(self, name: str) -> IO[bytes]:
        """A file that was added. Raises KeyError for another one."""
        self._file.flush()
        return io.BufferedReader(_Slice(self._file.fileno(), *self._spans[name]))


class _Slice(io.RawIOBase):
    """A part of a file from `start` to `end`, with a position of its own."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        # The descriptor of its own keeps the file open after its tree is closed.
        self._descriptor = os.dup(descriptor)
        self._start, self._end, self._at = start, end, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = os.pread(self._descriptor, min(len(view), self._end - self._at), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = min(max(base + offset, self._start), self._end)
        return self._at - self._start

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
