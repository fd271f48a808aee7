"""Stores the preprocessed clips on disk, in shards of audio and text.

    FOLDER/shard-00000.arrow ...   columns id, audio, format, seconds, text, speaker, tokens,
                                   dev: whether the clip is of the corpus's split dev

Audio is 16 kHz mono 16-bit, as FLAC (about 60 MB an hour) or plain PCM (115 MB an hour). Readers
map the shards into memory, so only the clips being read take memory.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import soundfile
from numpy.typing import NDArray

from lorajob.errors import StageError
from lorajob.speech.audio import SAMPLE_RATE, Samples

AudioFormat = Literal["flac", "pcm16"]
SHARD_BYTES = 256 << 20
BATCH_CLIPS = 64  # clips held in memory before they are written; 60 MB at most
SHARDS = "shard-*.arrow"

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "audio": pa.binary(),
        "format": pa.string(),
        "seconds": pa.float32(),
        "text": pa.string(),
        "speaker": pa.string(),
        "tokens": pa.int32(),
        "dev": pa.bool_(),
    }
)


@dataclass(frozen=True)
class Extent:
    """A part of a file: where it starts, and its number of bytes."""

    path: Path
    start: int
    size: int


def encode_audio(samples: Samples, audio_format: AudioFormat) -> bytes:
    """Samples [-1, 1] at 16 kHz as 16-bit FLAC or little-endian PCM."""
    integers = np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2")
    if audio_format == "pcm16":
        return integers.tobytes()
    file = io.BytesIO()
    soundfile.write(file, integers, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


class ClipWriter:
    """Writes a new store to an empty or missing folder. It is complete after the `with` block.

    A shard gets its final name when it is complete. After an error in the block, the incomplete
    shard is removed.
    """

    def __init__(
        self, folder: Path, audio_format: AudioFormat, shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.folder = folder
        self.audio_format: AudioFormat = audio_format
        self.shard_bytes = shard_bytes
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._rows: list[dict[str, object]] = []
        self._shards = 0
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def add(
        self, id: str, samples: Samples, text: str, speaker: str, tokens: int, dev: bool = False
    ) -> None:
        """Append a clip: float32 mono samples at 16 kHz, its text and its number of labels."""
        audio = encode_audio(samples, self.audio_format)
        self.add_encoded(id, audio, len(samples) / SAMPLE_RATE, text, speaker, tokens, dev)

    def add_encoded(
        self,
        id: str,
        audio: bytes,
        seconds: float,
        text: str,
        speaker: str,
        tokens: int,
        dev: bool = False,
    ) -> None:
        """As `add`, for audio that `encode_audio` has already encoded in this writer's format."""
        if self._writer is None:
            self._writer = pa.ipc.new_stream(str(self._partial), SCHEMA)
        row = {"id": id, "audio": audio, "format": self.audio_format, "seconds": seconds}
        self._rows.append(row | {"text": text, "speaker": speaker, "tokens": tokens, "dev": dev})
        if len(self._rows) == BATCH_CLIPS:
            self._write_rows()
        self._bytes += len(audio)
        if self._bytes >= self.shard_bytes:
            self._finish_shard()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish_shard()
        elif self._writer is not None:
            self._writer.close()
            self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self.folder / f"partial-{self._shards:05d}"

    def _write_rows(self) -> None:
        if self._writer is not None and self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=SCHEMA))
        self._rows = []

    def _finish_shard(self) -> None:
        if self._writer is None:
            return
        self._write_rows()
        self._writer.close()
        self._partial.rename(self.folder / f"shard-{self._shards:05d}.arrow")
        self._writer = None
        self._shards += 1
        self._bytes = 0


class ClipStore:
    """Reads the clips that a ClipWriter wrote to `folder`, in the order of writing.

    Only the folder's name is pickled. Raises StageError if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise StageError(f"{folder}: no clips here; preprocess has not run")
        self.folder = folder

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @cached_property
    def ids(self) -> list[str]:
        return self._column("id")

    @cached_property
    def texts(self) -> list[str]:
        return self._column("text")

    @cached_property
    def speakers(self) -> list[str]:
        return self._column("speaker")

    @cached_property
    def dev(self) -> list[bool]:
        """Whether each clip is of the split dev; none is in a store older than the column."""
        if any("dev" not in shard.column_names for shard in self._shards):
            return [False] * len(self)
        return self._column("dev")

    @cached_property
    def seconds(self) -> NDArray[np.float32]:
        return np.array(self._column("seconds"), dtype=np.float32)

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        return np.array(self._column("tokens"), dtype=np.int32)

    def audio(self, index: int) -> Samples:
        """Samples [-1, 1] of a clip, float32 mono at 16 kHz. Raises IndexError if out of range."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[number - 1]) if number else 0)
        shard = self._shards[number]
        data: pa.Buffer = shard.column("audio")[row].as_buffer()
        if shard.column("format")[row].as_py() == "pcm16":
            return np.frombuffer(data, dtype="<i2").astype(np.float32) / np.float32(32768)
        samples: Samples = soundfile.read(pa.BufferReader(data), dtype="float32")[0]
        return samples

    def extents(self, clips: range) -> list[Extent]:
        """Where the audio of these clips is in the files, in order.

        Clips are stored BATCH_CLIPS at a time, so an extent may begin before the first clip and end
        behind the last.
        """
        found = []
        first = 0
        for (path, mapped), shard in zip(self._files, self._shards, strict=True):
            for chunk in shard.column("audio").chunks:
                if first < clips.stop and clips.start < first + len(chunk):
                    data = chunk.buffers()[2]
                    found.append(Extent(path, data.address - mapped.address, data.size))
                first += len(chunk)
        return found

    @cached_property
    def _files(self) -> list[tuple[Path, pa.Buffer]]:
        """Each shard's path and its bytes, mapped into memory."""
        paths = sorted(self.folder.glob(SHARDS))
        return [(path, pa.memory_map(str(path)).read_buffer()) for path in paths]

    @cached_property
    def _shards(self) -> list[Any]:
        return [pa.ipc.open_stream(pa.BufferReader(it)).read_all() for _, it in self._files]

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Index after the last clip of each shard."""
        return np.cumsum([shard.num_rows for shard in self._shards], dtype=np.int64)

    def _column(self, name: str) -> list[Any]:
        return [value for shard in self._shards for value in shard.column(name).to_pylist()]
