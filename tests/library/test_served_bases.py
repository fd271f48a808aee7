"""Bases that are served beside tuned models, in CTranslate2's format."""

from pathlib import Path

import pytest

from lorajob.errors import ModelError
from lorajob.serving import bases


def test_a_transformers_folder_is_converted_once(
    tiny_whisper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bases.main(str(tiny_whisper)) == 0
    folder = Path(capsys.readouterr().out.strip())
    made = (folder / "model.bin").stat()
    # What is converted is served as it is.
    assert bases.base_folder(str(folder)) == folder.resolve()
    assert bases.main(str(tiny_whisper)) == 0
    assert (folder / "model.bin").stat() == made


def test_what_is_no_model_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match="--models: /no/such is not a folder"):
        bases.base_folder("/no/such")
    assert bases.main(str(tmp_path)) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and str(tmp_path) in said.err
