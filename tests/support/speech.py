"""Small corpora and sounds for tests: tones where a voice is not needed."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from lorajob.demo.speech import COLUMNS

OLD_COLUMNS = ["client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent"]


class Spoken(NamedTuple):
    """A line of a release's table."""

    name: str
    text: str
    speaker: str = "a"
    split: str = "train"
    seconds: float = 1.0


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def sound_bytes(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def mp3(seconds: float, rate: int = 48_000, hertz: float = 440.0) -> bytes:
    return sound_bytes(tone(seconds, rate, hertz), rate, "MP3")


def make_release(
    parent: Path,
    lines: Sequence[Spoken],
    language: str = "hi",
    name: str = "cv-corpus-9.0-2024-01-05",
    columns: Sequence[str] = COLUMNS,
) -> Path:
    """An unpacked release of tones; returns its language's folder."""
    root = parent / name / language
    (root / "clips").mkdir(parents=True)
    for split in dict.fromkeys(line.split for line in lines):
        rows = ["\t".join(columns)]
        for line in (line for line in lines if line.split == split):
            values = {"client_id": line.speaker, "path": line.name, "sentence": line.text}
            values["locale"] = language
            rows.append("\t".join(values.get(column, "") for column in columns))
        (root / f"{split}.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    for number, line in enumerate(lines):
        if line.seconds:
            # No two clips are the same recording.
            sound = mp3(line.seconds, hertz=440.0 + 20 * number)
            (root / "clips" / line.name).write_bytes(sound)
    return root


def pack(root: Path, target: Path, tables_last: bool = True) -> Path:
    """The release whose language folder is `root`, as the tar.gz people download."""
    tables = sorted(root.glob("*.tsv"))
    clips = sorted((root / "clips").iterdir())
    with tarfile.open(target, "w:gz", compresslevel=1) as tar:
        for path in [*clips, *tables] if tables_last else [*tables, *clips]:
            tar.add(path, path.relative_to(root.parent.parent).as_posix())
    return target


def make_model(folder: Path, *languages: str) -> Path:
    """A model folder with a tokenizer of bytes (a label a byte) and nothing else of substance."""
    folder.mkdir(parents=True)
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    special = ["endoftext", "startoftranscript", *(languages or ("hi",)), "transcribe"]
    special.append("notimestamps")
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", special=True) for name in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("config", "generation_config", "preprocessor_config"):
        (folder / f"{name}.json").write_text(json.dumps({}))
    (folder / "model.safetensors").touch()
    return folder
