import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lorajob.errors import ModelError
from lorajob.whisper import ct2
from lorajob.whisper.base_model import local_model
from lorajob.whisper.ct2_import import import_ctranslate2, read_model_bin
from lorajob.whisper.model import load_whisper

WHISPER_BASE_PARAMETERS = 72_593_920


def test_the_packaged_base_is_whisper_base(whisper_base: Path) -> None:
    model = load_whisper(whisper_base)
    assert sum(parameter.numel() for parameter in model.parameters()) == WHISPER_BASE_PARAMETERS
    assert model.generation_config.lang_to_id["<|hi|>"] == 50276
    assert len(model.generation_config.lang_to_id) == 99


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2), ("int8", 2e-2)]
)
def test_a_conversion_turned_back_has_the_same_weights(
    tiny_whisper: Path, tmp_path: Path, kind: str, tolerance: float
) -> None:
    ct2.convert(tiny_whisper, tmp_path / "ct2", kind)
    import_ctranslate2(tmp_path / "ct2", tmp_path / "back")
    before = load_file(tiny_whisper / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert set(after) == set(before) - {"proj_out.weight"}
    for name, weights in after.items():
        np.testing.assert_allclose(
            weights.astype(np.float32), before[name], atol=tolerance, err_msg=name
        )
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["encoder_layers"] == 2
    assert config["decoder_attention_heads"] == 2
    generation = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert generation["alignment_heads"] == [[1, 0], [1, 1]]
    load_whisper(tmp_path / "back")


def test_a_ctranslate2_folder_is_a_base_model(tiny_whisper: Path, tmp_path: Path) -> None:
    ct2.convert(tiny_whisper, tmp_path / "ct2", "float32")
    folder = local_model(str(tmp_path / "ct2"))
    assert (folder / "model.safetensors").is_file()
    assert local_model(str(tmp_path / "ct2")) == folder


@pytest.mark.parametrize("size", [3, 40, 5000])
def test_a_truncated_model_bin_is_one_error(tiny_whisper: Path, tmp_path: Path, size: int) -> None:
    ct2.convert(tiny_whisper, tmp_path / "ct2", "float32")
    path = tmp_path / "ct2" / "model.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.bin is damaged"):
        read_model_bin(path)


def test_another_version_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes((9).to_bytes(4, "little") + bytes(100))
    with pytest.raises(ModelError, match="binary version 9"):
        read_model_bin(tmp_path / "model.bin")


def test_a_folder_that_is_no_model_names_what_is_missing(
    tiny_whisper: Path, tmp_path: Path
) -> None:
    shutil.copyfile(tiny_whisper / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"tokenizer\.json.*model\.safetensors missing"):
        local_model(str(tmp_path))
