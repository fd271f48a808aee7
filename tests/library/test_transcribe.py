import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lorajob.errors import CorpusError
from lorajob.speech.clipstore import ClipStore
from lorajob.transcribe import transcribe
from lorajob.whisper import ct2
from lorajob.whisper.tokens import USUAL_TOKENS, Labels
from tests.support.tiny import make_job

RATE = 16_000


@pytest.fixture(scope="module")
def model(tiny_whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ct2.convert(tiny_whisper, tmp_path_factory.mktemp("model") / "model", "float32")


def test_a_short_file_is_decoded_as_evaluation_decodes_it(
    tiny_whisper: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # evaluation knows how fast people speak, transcribing does not
    monkeypatch.setattr(ct2, "token_limits", lambda store, indices: [USUAL_TOKENS] * len(indices))
    store = ClipStore(make_job(tmp_path, tiny_whisper).stage_dir("preprocess") / "train")
    files = [tmp_path / f"{index}.wav" for index in range(3)]  # one batch, in order
    for index, path in enumerate(files):
        soundfile.write(path, store.audio(index), RATE)
    heard = list(transcribe(model, files, "hi", cut=True))
    decoder = ct2.Decoder(model, Labels(model, "hi"))
    expected = decoder.transcribe(store, range(3), 16, cut=True)
    assert heard == list(zip(files, expected, strict=True))
    padded = [text for _, text in transcribe(model, files, "hi")]
    assert padded != expected


def test_every_file_before_a_broken_one_is_heard(model: Path, tmp_path: Path) -> None:
    tone, broken = tmp_path / "tone.wav", tmp_path / "broken.wav"
    soundfile.write(tone, 0.1 * np.sin(np.arange(RATE) / 10), RATE)
    broken.write_text("no audio")
    heard = []
    with pytest.raises(CorpusError, match=r"broken\.wav: cannot be transcribed"):
        for path, _ in transcribe(model, [tone, tone, broken, tone], "hi", cut=True):
            heard.append(path)
    assert heard == [tone, tone]


def test_a_file_longer_than_a_window_is_heard_to_its_end(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal(40 * RATE)
    soundfile.write(path, noise.astype(np.float32), RATE)
    assert list(transcribe(model, [path], "hi", cut=True)) == list(transcribe(model, [path], "hi"))


def test_transcribing_loads_no_torch() -> None:
    code = "import sys, lorajob.transcribe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
