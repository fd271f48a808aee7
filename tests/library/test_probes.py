"""Optional packages that a stage leaves out, and imports without collections."""

import subprocess
import sys

import pytest

from lorajob import stage
from lorajob.probes import QUANTIZER, UNUSED
from lorajob.spec import build_spec
from lorajob.whisper.identity import Base

LEFT_OUT = """
import importlib.util, json
from lorajob.probes import leave_out, left_out
assert left_out() == []
leave_out(["scipy", "json"])
assert importlib.util.find_spec("scipy") is None and importlib.util.find_spec("numpy")
assert left_out() == ["scipy"]
import json
"""

LASTING = """
import gc
from lorajob.probes import lasting_imports
collected = []
gc.callbacks.append(lambda phase, _: collected.append(phase))
gc.collect()
began = len(collected)
try:
    with lasting_imports():
        kept = [[number] for number in range(100_000)]
        raise ImportError
except ImportError:
    pass
assert began > 0 and len(collected) == began, collected
assert gc.isenabled() and gc.get_freeze_count() > 100_000
later = [[number] for number in range(100_000)]
assert len(collected) > began
"""

LISTED_ONCE = """
import builtins
from lorajob.probes import lasting_imports, list_models_once
with lasting_imports():
    list_models_once()
    read, opened = [], builtins.open
    builtins.open = lambda name, *more, **named: read.append(name) or opened(name, *more, **named)
    import transformers.models
    from transformers.models.whisper import WhisperConfig
    builtins.open = opened
assert len(read) < 100, read
from pathlib import Path
from transformers.utils import import_utils
folder = str(Path(transformers.__file__).parent / "models")
ours = import_utils.define_import_structure(f"{folder}/__init__.py")
assert len(ours) > 1 and ours == import_utils.define_import_structure(folder)
assert WhisperConfig is transformers.WhisperConfig
"""


def test_transformers_lists_its_models_once():
    subprocess.run([sys.executable, "-c", LISTED_ONCE], check=True)


def test_imports_that_last_are_never_collected_and_later_objects_are():
    subprocess.run([sys.executable, "-c", LASTING], check=True)


def test_a_package_that_is_left_out_looks_as_if_it_were_not_installed():
    subprocess.run([sys.executable, "-c", LEFT_OUT], check=True)


def test_a_stage_that_is_finished_already_loads_no_numpy():
    code = "import sys, lorajob.stage; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "quantization", "saved", "kept"),
    [
        ("train", "8bit", "{}", True),
        ("train", "4bit", "{}", True),
        ("train", "none", "{}", False),
        ("train", "none", '{"quantization_config": {}}', True),
        ("evaluate", "8bit", "{}", False),
        ("convert", "none", '{"quantization_config": {}}', True),
    ],
)
def test_a_stage_keeps_bitsandbytes_only_for_a_quantised_base(
    tmp_path, name, quantization, saved, kept
):
    (tmp_path / "config.json").write_text(saved)
    values = {"language": "hi", "corpus": "unused", "base_model": str(tmp_path)}
    spec = build_spec(values, sets=(f"train.quantization={quantization}",))
    unused = stage._unused(name, spec, Base(tmp_path, "0" * 64, None))
    assert set(UNUSED) <= set(unused)
    assert (QUANTIZER not in unused) == kept
