"""What the header of an audio file says about its length, and what the file holds of it.

libsndfile reads a file that was cut off as a shorter one. So the sizes in the headers of WAV, RF64,
Wave64, AIFF, AU and CAF are compared with the file itself.
"""

import io
import os
import struct
from dataclasses import dataclass
from typing import IO

HEADER_BYTES = 1 << 16  # in which the data begins
# Programs that write to a pipe leave sizes such as 0x7ffff000, 0x80000000 or 0xffffffff.
PLACEHOLDER_BYTES = 0x7FFF0000
XING = (b"Xing", b"Info", b"VBRI")  # an MP3's frame with the number of frames

_MAGIC = (
    *(b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b".snd", b"caff", b"fLaC", b"OggS"),
    *(b"ID3", b"\x1aE\xdf\xa3", b"#!AMR", b"0&\xb2u", b"G@", b"NIST_1A"),
    *(b"FLV\x01", b"\x00\x00\x01\xba", b"\x0bw", b"wvpk", b"TTA1", b"MAC ", b"Creative Voice"),
)


@dataclass(frozen=True, slots=True)
class Data:
    """The sound in a file: its bytes by the header, None if unknown, and those in the file."""

    promised: int | None
    present: int
    size_at: int  # where the header has the size, as 32 bits
    big: bool = False  # most significant byte first

    @property
    def missing_share(self) -> float:
        """The missing bytes, as a multiple of those that are there."""
        if self.promised is None or self.promised <= self.present:
            return 0.0
        return (self.promised - self.present) / max(1, self.present)


def is_container(head: bytes) -> bool:
    """Whether a file with these first bytes is sound or video, perhaps a damaged one."""
    if head.startswith(_MAGIC) or head[4:8] in (b"ftyp", b"moov", b"wide", b"mdat"):
        return True
    # Frames of MP3 and AAC. Text in UTF-16 begins with ff fe.
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] != 0xFE


def has_frame_count(head: bytes) -> bool:
    """Whether an MP3 says how long it is. Without this, its length is only an estimate."""
    return any(mark in head for mark in XING)


def find_data(file: IO[bytes]) -> Data | None:
    """The sound data of a file in one of the formats with a size; None for other formats.

    The file's position is its beginning, before and after.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEADER_BYTES)
    file.seek(0)
    try:
        match head[:4]:
            case b"RIFF" | b"RIFX" | b"RF64" | b"BW64":
                return _riff(head, size)
            case b"riff":
                return _wave64(head, size)
            case b"FORM":
                return _chunk(head, size, 12, b"SSND", 4)
            case b"caff":
                return _chunk(head, size, 8, b"data", 8)
            case b"NIST":
                return _sphere(head, size)
            case b".snd":
                start, promised = struct.unpack_from(">II", head, 4)
                return Data(_known(promised, size - start), size - start, 8, True)
    except struct.error:
        return None
    return None


def ends_inside(file: IO[bytes]) -> bool:
    """Whether an Ogg, MP4 or AVI file ends within one of the parts that it consists of.

    False for other formats. The file's position is its beginning, before and after.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    parts = None
    if head.startswith(b"OggS"):
        parts = _ogg_page
    elif head[4:8] in (b"ftyp", b"moov", b"wide", b"mdat"):
        parts = _box
    elif head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        parts = _avi_part
    at = 0
    while parts is not None and at < size:
        file.seek(at)
        length = parts(file)
        if length is None:
            break
        at += length
    file.seek(0)
    return at > size


def _ogg_page(file: IO[bytes]) -> int | None:
    """The bytes of the page that begins here; None if none does."""
    head = file.read(27)
    if not head.startswith(b"OggS"):
        return None
    lengths = file.read(head[26]) if len(head) == 27 else b""
    # A page that ends in its header is cut off, so any greater length will do.
    return 27 + max(1, len(lengths)) + sum(lengths)


def _box(file: IO[bytes]) -> int | None:
    """The bytes of the box of an MP4 that begins here; None if none does, or if it is the last."""
    head = file.read(16)
    if len(head) < 8 or not head[4:8].isalnum():
        return None
    (length,) = struct.unpack_from(">I", head)
    if length == 1 and len(head) == 16:
        (length,) = struct.unpack_from(">Q", head, 8)
    return length if length >= 8 else None


def _avi_part(file: IO[bytes]) -> int | None:
    """The bytes of the RIFF chunk of an AVI that begins here; None if none does."""
    head = file.read(8)
    if not head.startswith(b"RIFF") or len(head) < 8:
        return None
    (length,) = struct.unpack_from("<I", head, 4)
    return 8 + length if 0 < length < PLACEHOLDER_BYTES else None


def completed(file: IO[bytes], data: Data) -> IO[bytes]:
    """The file, in memory, with the size of its data in place of 0."""
    whole = bytearray(file.read())
    order = ">" if data.big else "<"
    struct.pack_into(f"{order}I", whole, data.size_at, min(data.present, 0xFFFFFFFF))
    struct.pack_into(f"{order}I", whole, 4, min(len(whole) - 8, 0xFFFFFFFF))
    return io.BytesIO(bytes(whole))


def _known(promised: int, present: int) -> int | None:
    """The size by the header; None if it is a placeholder."""
    return None if promised > present and promised >= PLACEHOLDER_BYTES else promised


def _riff(head: bytes, size: int) -> Data | None:
    order = ">" if head.startswith(b"RIFX") else "<"
    at, long = 12, None
    while True:
        name = head[at : at + 4]
        (length,) = struct.unpack_from(f"{order}I", head, at + 4)
        if name == b"ds64":
            (long,) = struct.unpack_from("<Q", head, at + 16)
        if name == b"data":
            present = size - at - 8
            promised = long if long and length == 0xFFFFFFFF else _known(length, present)
            if promised == 0 and present and not _is_chunk(head, at + 8, order, size):
                promised = None
            return Data(promised, present, at + 4, order == ">")
        at += 8 + length + length % 2


def _is_chunk(head: bytes, at: int, order: str, size: int) -> bool:
    """Whether a chunk begins here, and not sound."""
    name = head[at : at + 4]
    if len(head) < at + 8 or not all(0x20 <= byte < 0x7F for byte in name):
        return False
    (length,) = struct.unpack_from(f"{order}I", head, at + 4)
    return at + 8 + int(length) <= size


def _sphere(head: bytes, size: int) -> Data | None:
    """NIST SPHERE: lines of text such as `sample_count -i 48000`, then the sound."""
    try:
        start = int(head[8:16])
        lines = (line.split(None, 2) for line in head[:start].decode("ascii").splitlines())
        fields = {line[0]: line[2] for line in lines if len(line) == 3}
        samples, width = int(fields["sample_count"]), int(fields["sample_n_bytes"])
        promised = samples * width * int(fields.get("channel_count", 1))
    except (ValueError, LookupError):
        return None
    # Compressed sound takes fewer bytes.
    if "," in fields.get("sample_coding", ""):
        return None
    return Data(promised, size - start, 0)


def _wave64(head: bytes, size: int) -> Data | None:
    at = 40
    while True:
        (length,) = struct.unpack_from("<Q", head, at + 16)
        if head[at : at + 4] == b"data":
            present = size - at - 24
            return Data(_known(length - 24, present), present, at + 16)
        at += length + -length % 8


def _chunk(head: bytes, size: int, at: int, wanted: bytes, size_bytes: int) -> Data | None:
    kind = {4: ">I", 8: ">Q"}[size_bytes]
    while True:
        (length,) = struct.unpack_from(kind, head, at + 4)
        start = at + 4 + size_bytes
        if head[at : at + 4] == wanted:
            return Data(_known(length, size - start), size - start, at + 4, True)
        at = start + length + (length % 2 if size_bytes == 4 else 0)
