"""Runs the examples of a model card on test clips, and scores them."""

import io
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ctranslate2
import numpy as np
import soundfile

from lorajob.errors import StageError
from lorajob.job.jobdir import JobDir
from lorajob.speech.audio import SAMPLE_RATE
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.scoring import score

SOUND = "audio.wav"  # in the examples


@dataclass(frozen=True)
class LibraryScore:
    """Normalised error rates of an exported model in one library, in percent."""

    library: str
    wer: float
    cer: float
    clips: int

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def measure_examples(
    job: JobDir,
    bundle: Path,
    examples: Sequence[tuple[str, str, str]],
    language: str,
    clips: int,
    say: Callable[[str], None],
) -> list[LibraryScore]:
    """Scores of the examples of Python, (title, language of the code, code), on test clips.

    At most `clips` clips are heard, at even distances over the test set. A library that is not
    installed is left out, and `say` hears it. Raises StageError without test clips.
    """
    folder = job.stage_dir("preprocess") / "test"
    if not folder.is_dir() or not len(store := ClipStore(folder)):
        raise StageError(f"{job.root.name}: has no test clips; leave out --check")
    places = np.linspace(0, len(store) - 1, min(clips, len(store))).round().astype(int).tolist()
    found = []
    for library, kind, code in examples:
        if kind != "python":
            continue
        say(f"checking {library} on {len(places)} test clips")
        try:
            heard = _hear(code, bundle, store, places)
        except ImportError as error:
            say(f"{library}: the package {error.name} is not installed, so it is not checked")
            continue
        scores = score([store.texts[it] for it in places], heard, language)
        found.append(LibraryScore(library, scores.wer, scores.cer, scores.clips))
    return found


def _hear(code: str, bundle: Path, store: ClipStore, places: Sequence[int]) -> list[str]:
    """What an example prints for each clip. It loads its model once."""
    lines = code.splitlines()
    first = next(number for number, line in enumerate(lines) if SOUND in line)
    names: dict[str, Any] = {}
    heard = []
    # faster-whisper samples where a transcript trips one of Whisper's thresholds.
    ctranslate2.set_random_seed(0)
    with TemporaryDirectory() as scratch, chdir(bundle), redirect_stderr(io.StringIO()):
        path = Path(scratch, SOUND)
        use = "\n".join(lines[first:]).replace(f'"{SOUND}"', repr(str(path)))
        exec(compile("\n".join(lines[:first]), "example", "exec"), names)
        run = compile(use, "example", "exec")
        for place in places:
            soundfile.write(path, store.audio(place), SAMPLE_RATE)
            with redirect_stdout(io.StringIO()) as said:
                exec(run, names)
            heard.append(said.getvalue().strip())
    return heard
