import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lorajob.book.decode import Book
from lorajob.book.terms import terms_of
from lorajob.decoding.config import DecodeConfig, TokenLimits
from lorajob.decoding.fallback import Transcript
from lorajob.decoding.fast import FastDecoder, Sound, decode
from lorajob.decoding.long_form import LONGEST_PIECE, join_spoken, split
from lorajob.errors import CorpusError
from lorajob.speech.clipstore import ClipStore
from lorajob.transcribe import transcribe, transcribe_files
from lorajob.whisper import ct2
from tests.support.tiny import make_job

RATE = 16_000
# An untrained model trips every threshold: it is not decoded again.
CUT = DecodeConfig(
    language="hi",
    cut=True,
    no_speech=None,
    temperatures=(0.0,),
    limits=TokenLimits(tokens=30, seconds=30),
)


@pytest.fixture(scope="module")
def model(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ct2.convert(tiny_whisper, tmp_path_factory.mktemp("model") / "model", "float32")


def test_a_short_file_is_decoded_as_evaluation_decodes_it(
    tiny_whisper: Path, model: Path, tmp_path: Path
) -> None:
    store = ClipStore(make_job(tmp_path, tiny_whisper).stage_dir("preprocess") / "train")
    files = [tmp_path / f"{index}.wav" for index in range(3)]  # one batch, in order
    for index, path in enumerate(files):
        soundfile.write(path, store.audio(index), RATE)
    heard = list(transcribe(model, files, CUT))
    sounds = [Sound(float(store.seconds[it]), partial(store.audio, it)) for it in range(3)]
    expected = decode(model, CUT, sounds)
    assert heard == list(zip(files, expected, strict=True))
    padded = [text for _, text in transcribe(model, files, CUT.model_copy(update={"cut": False}))]
    assert padded != expected


def test_every_file_before_a_broken_one_is_heard(model: Path, tmp_path: Path) -> None:
    tone, broken = tmp_path / "tone.wav", tmp_path / "broken.wav"
    soundfile.write(tone, 0.1 * np.sin(np.arange(RATE) / 10), RATE)
    broken.write_text("no audio")
    heard = []
    with pytest.raises(CorpusError, match=r"broken\.wav: cannot be transcribed"):
        for path, _ in transcribe(model, [tone, tone, broken, tone], CUT):
            heard.append(path)
    assert heard == [tone, tone]


def test_a_file_longer_than_a_window_is_heard_to_its_end(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    noise = (0.1 * np.random.default_rng(0).standard_normal(40 * RATE)).astype(np.float32)
    soundfile.write(path, noise, RATE, subtype="FLOAT")
    ((_, text),) = transcribe(model, [path], CUT)
    # No speech is found, so nothing is left out.
    halves = [noise[:LONGEST_PIECE], noise[LONGEST_PIECE:]]
    assert [len(it) for it in split(noise)] == [len(it) for it in halves]
    assert text == " ".join(decode(model, CUT, [Sound.of(it) for it in halves]))


def test_terms_of_a_glossary_are_tried_and_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(3 * RATE) / 10), RATE)
    assert list(transcribe_files(model, [path], CUT, glossary=terms_of([]))) == list(
        transcribe_files(model, [path], CUT)
    )

    def put_in(decoder: FastDecoder, sounds: list[Sound], book: Book, **_: object) -> object:
        assert book.index is not None
        (near,) = book.index.near("nairobbi")
        return [Transcript(near.term.text, 2, -0.5, 0.0, 0.0, terms=("Nairobi",)) for _ in sounds]

    monkeypatch.setattr("lorajob.transcribe.decode_with_book", put_in)
    (found,) = transcribe_files(model, [path], CUT, words=True, glossary=terms_of(["Nairobi"]))
    assert (found.text, found.terms) == ("Nairobi", ("Nairobi",))
    assert "".join(it.word for it in found.passages[0].words) == "Nairobi"


def test_pieces_join_neighbours_and_divide_what_is_too_long() -> None:
    second = RATE
    spoken = [(0, 5 * second), (6 * second, 14 * second), (15 * second, 20 * second)]
    assert join_spoken(spoken, 15 * second) == [(0, 14 * second), (15 * second, 20 * second)]
    long = join_spoken([(0, 70 * second)], 15 * second)
    assert [start for start, _ in long] == [0, LONGEST_PIECE, 2 * LONGEST_PIECE]
    assert long[-1][1] == 70 * second and max(end - start for start, end in long) <= LONGEST_PIECE
    assert join_spoken(spoken, 8 * second) == spoken
    assert join_spoken([], second) == []


def test_transcribing_loads_no_torch() -> None:
    code = "import sys, lorajob.transcribe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
