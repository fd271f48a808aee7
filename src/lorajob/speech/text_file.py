"""Reads the lines of a file of text, plain or packed with gzip."""

import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

from lorajob.errors import FilesError

GZIP = b"\x1f\x8b"
MOST_LINE_BYTES = 1_000_000  # read at a time, for a file without line breaks


def lines_of_file(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without its line breaks and its byte order mark.

    A line of over `MOST_LINE_BYTES` is given in parts. Raises FilesError, with the number of the
    line, for bytes that are not UTF-8, for a damaged archive, and for a file that cannot be read.
    """
    number = 0
    try:
        with _opened(path) as file:
            left = b""
            while piece := file.readline(MOST_LINE_BYTES):
                ends = piece.endswith(b"\n")
                whole = left + piece
                # A part may end within a character of up to 4 bytes.
                is_part = not ends and len(piece) == MOST_LINE_BYTES
                cut = _whole_characters(whole) if is_part else len(whole)
                text = whole[:cut].decode("utf-8-sig" if not number else "utf-8")
                left = whole[cut:]
                yield text.rstrip("\r\n")
                number += ends
            if left:
                yield left.decode()
    except UnicodeDecodeError:
        raise FilesError(
            f"{path}: line {number + 1} is not UTF-8; convert it, as with iconv"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise FilesError(f"{path}: damaged after line {number}; pack it again with gzip") from None
    except OSError as error:
        raise FilesError(f"{path}: cannot be read: {error.strerror or error}") from None


def _opened(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path, "rb") if packed else path.open("rb")


def _whole_characters(data: bytes) -> int:
    """The bytes before a character that `data` may end within."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] >= 0xC0:
            return len(data) - back
    return len(data)
