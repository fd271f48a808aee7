"""Writes the clips of any corpus as a manifest with its audio, or as one Parquet file.

    OUT/manifest.jsonl      {"audio": "clips/000000.mp3", "text": ..., "speaker": ..., "split": ...}
    OUT/clips/000000.mp3    each recording once, in its own format
    OUT.parquet             audio {"bytes", "path"}, text, speaker, split
    OUT.jsonl               a manifest alone, which names the audio where it lies

In a manifest, segments keep their recording and have `start` and `end`. In Parquet they are cut out
and stored as FLAC at the recording's rate. Clips without audio and rows with a fault are left out.
"""

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lorajob.corpora.clip import Clip, Corpus
from lorajob.corpora.names import is_audio
from lorajob.corpora.pieces import pieces
from lorajob.errors import CorpusError, UsageError
from lorajob.speech.audio import AudioError
from lorajob.speech.segments import Cut

PARQUET, LIST = ".parquet", ".jsonl"
NOTHING: Mapping[str, str] = MappingProxyType({})
MISSING = "not found"
ROWS = 64  # in a row group
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}


@dataclass(frozen=True)
class Written:
    """How many clips were written, and how many were left out for which reason."""

    clips: int
    left_out: dict[str, int]


def check_free(out: Path) -> None:
    """Raise UsageError if something is at `out`."""
    if out.exists():
        raise UsageError(f"OUT: {out} exists; name a new folder or file")


def export_corpus(corpus: Corpus, out: Path, excluded: Mapping[str, str] = NOTHING) -> Written:
    """Write the clips of a corpus to `out`.

    It becomes a Parquet file if its name ends in .parquet, a manifest without audio if it ends in
    .jsonl, else a folder. `excluded` clips, by their ids, are left out for the reason given.
    Nothing is at `out` until all is written. Raises UsageError if something is there already or if
    a manifest cannot name audio in an archive, CorpusError if no clip can be written, OSError from
    writing.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part-{os.getpid()}-{out.name}")
    left_out: Counter[str] = Counter()
    try:
        write = _WRITERS.get(out.suffix.lower(), _write_manifest)
        clips = write(_clips(corpus, left_out, excluded), part, left_out)
        if not clips:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
            raise CorpusError(f"corpus: no clip to write: {reasons or 'it lists none'}")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if part.is_file():
            part.unlink()
    return Written(clips, dict(left_out))


def _clips(corpus: Corpus, left_out: Counter[str], excluded: Mapping[str, str]) -> Iterator[Clip]:
    """The clips that have audio and no fault, and are not excluded. The others are counted."""
    for clip in corpus.reader.read(corpus.entries):
        if (reason := excluded.get(clip.id)) is not None:
            left_out[reason] += 1
            continue
        there = bool(clip.audio) if isinstance(clip.audio, bytes) else clip.audio.is_file()
        if clip.fault or not there:
            left_out[clip.fault or MISSING] += 1
        else:
            yield clip


def _write_manifest(clips: Iterator[Clip], folder: Path, left_out: Counter[str]) -> int:
    (folder / "clips").mkdir(parents=True)
    count, recordings, last, name = 0, 0, None, ""
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as table:
        for clip in clips:
            # Segments of a recording come together and share it.
            if clip.audio is not last or not clip.is_segment:
                name = f"clips/{recordings:06d}{_suffix(clip)}"
                recordings += 1
                _copy(clip.audio, folder / name)
            last = clip.audio
            table.write(_line(clip, name))
            count += 1
    return count


def _write_list(clips: Iterator[Clip], target: Path, left_out: Counter[str]) -> int:
    count = 0
    with target.open("w", encoding="utf-8") as table:
        for clip in clips:
            if isinstance(clip.audio, bytes):
                raise UsageError(
                    "OUT: a .jsonl manifest names audio files, and this corpus has its audio in an"
                    " archive; name a folder or a .parquet file"
                )
            table.write(_line(clip, str(clip.audio.absolute())))
            count += 1
    return count


def _line(clip: Clip, audio: str) -> str:
    """The line of a manifest."""
    row: dict[str, object] = {"audio": audio, "text": clip.text, "split": clip.split}
    row |= {"speaker": clip.speaker} if clip.speaker else {}
    row |= {"start": clip.start} if clip.is_segment else {}
    row |= {"end": clip.end} if clip.end is not None else {}
    if clip.has_slack:
        row |= {"start_slack": clip.start_slack, "end_slack": clip.end_slack}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _copy(audio: Path | bytes, target: Path) -> None:
    if isinstance(audio, bytes):
        target.write_bytes(audio)
    else:
        shutil.copyfile(audio, target)


def _write_parquet(clips: Iterator[Clip], target: Path, left_out: Counter[str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("text", "speaker", "split")]
    # Hugging Face's `datasets` then takes the column as Audio.
    features = {"audio": {"_type": "Audio"}} | {
        name: {"dtype": "string", "_type": "Value"} for name, _ in texts
    }
    known = json.dumps({"info": {"features": features}})
    schema = pa.schema([("audio", audio), *texts], metadata={"huggingface": known})
    count, rows = 0, list[dict[str, object]]()
    with pq.ParquetWriter(target, schema) as writer:
        for row in _rows(clips, left_out):
            rows.append(row)
            count += 1
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return count


def _rows(clips: Iterator[Clip], left_out: Counter[str]) -> Iterator[dict[str, object]]:
    # A segment of any length is written: whether it is too long is for the job to say.
    for number, piece in enumerate(pieces(clips, float("inf"))):
        clip = piece.clip
        try:
            data, suffix = _bytes(clip, piece.cut(float("inf")))
        except AudioError as error:
            left_out[error.reason] += 1
            continue
        name = f"{number:06d}{suffix}"
        yield {
            "audio": {"bytes": data, "path": name},
            "text": clip.text,
            "speaker": clip.speaker,
            "split": clip.split,
        }


def _bytes(clip: Clip, cut: Cut | None) -> tuple[bytes, str]:
    """The bytes of a file with the clip alone, and its suffix."""
    if cut is None:
        data = clip.audio if isinstance(clip.audio, bytes) else clip.audio.read_bytes()
        return data, _suffix(clip)
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, cut.samples, cut.rate, format="FLAC")
    return file.getvalue(), ".flac"


def _suffix(clip: Clip) -> str:
    """The suffix of a clip's file, by its name or its first bytes."""
    if isinstance(clip.audio, Path):
        return clip.audio.suffix
    if is_audio(name := clip.id.partition("#")[0]):
        return Path(name).suffix
    return next((it for magic, it in _MAGIC.items() if clip.audio.startswith(magic)), "")


_WRITERS = {PARQUET: _write_parquet, LIST: _write_list}
