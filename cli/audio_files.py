"""The audio files that arguments of a command name: files, folders, patterns and `-`."""

import glob
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorajob.errors import UsageError
from lorajob.storage.urls import is_url, public

STDIN = "-"
# Of files in folders. A file that is named itself may have any ending.
ENDINGS = frozenset(
    {
        *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".webm"),
        *(".mp4", ".mkv", ".mov", ".avi", ".aiff", ".aif", ".amr", ".au", ".caf", ".3gp"),
        *(".mka", ".mpga", ".mpeg", ".w64", ".wv", ".ac3"),
    }
)


@dataclass(frozen=True)
class AudioFile:
    """An audio file, and its name below an output folder, without an ending."""

    path: Path
    shown: str  # as the user named it
    output: str


@contextmanager
def audio_files(arguments: Sequence[str]) -> Iterator[list[AudioFile]]:
    """The files of all arguments in their order, each once. `-` is read into a temporary file.

    Raises UsageError for an argument that names no audio.
    """
    found: list[tuple[Path, str, str]] = []  # path, as named, path below the output folder
    with tempfile.TemporaryDirectory(prefix="lorajob-stdin-") as scratch:
        for text in arguments:
            if text == STDIN:
                path = Path(scratch, "stdin")
                with path.open("wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
                if not path.stat().st_size:
                    raise UsageError("AUDIO: standard input is empty; pipe an audio file to it")
                found.append((path, STDIN, "stdin.wav"))
            else:
                found += [(path, str(path), inner) for path, inner in _named(text)]
        unique = {path.absolute(): (path, shown, inner) for path, shown, inner in found}
        yield _with_outputs(list(unique.values()))


def _named(text: str) -> list[tuple[Path, str]]:
    """(path, path below the output folder) of the files that one argument names."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"AUDIO: {text} begins with the home of an unknown user") from None
    if path.is_dir():
        inside = sorted(it for it in path.rglob("*") if it.suffix.lower() in ENDINGS)
        files = [(it, it.relative_to(path).as_posix()) for it in inside if it.is_file()]
        if not files:
            raise UsageError(f"AUDIO: {text} has no audio files")
        return files
    if path.exists():
        return [(path, path.name)]
    if glob.has_magic(text):
        # Path.glob takes no absolute pattern.
        matched = [Path(it) for it in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        if files := [(it, it.name) for it in matched if it.is_file()]:
            return files
        if folders := [it for it in matched if it.is_dir()]:
            return [found for it in folders for found in _named(str(it))]
        raise UsageError(f"AUDIO: {text} matches no file")
    if is_url(text):
        raise UsageError(
            f"AUDIO: {public(text)} is a url; download the file first, or pipe it: "
            "`curl -L URL | lorajob transcribe JOB -`"
        )
    raise UsageError(f"AUDIO: {text} does not exist")


def _with_outputs(files: list[tuple[Path, str, str]]) -> list[AudioFile]:
    """Each file with a name of its own: `a` of a.wav; `a.wav` if a.mp3 is there, too; `a.wav-2`."""
    stems = [str(Path(inner).with_suffix("")) for _, _, inner in files]
    made: list[AudioFile] = []
    used: set[str] = set()
    for (path, shown, inner), stem in zip(files, stems, strict=True):
        name = stem if stems.count(stem) == 1 else inner
        number, output = 2, name
        while output in used:
            output, number = f"{name}-{number}", number + 1
        used.add(output)
        made.append(AudioFile(path, shown, output))
    return made
