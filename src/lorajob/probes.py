"""Optional packages that a stage leaves out.

transformers, peft and evaluate import packages that they find, whether the program uses them or
not. bitsandbytes loads torch's compiler. Together they take a third of the start of a stage.
"""

import importlib
import sys
from collections.abc import Iterable
from typing import Any

# transformers uses scipy in the losses of object detection and scikit-learn in assisted decoding.
# evaluate uses scipy in its own bootstrap.
UNUSED = ("scipy", "sklearn")
QUANTIZER = "bitsandbytes"


def leave_out(packages: Iterable[str]) -> None:
    """Make `packages` look as if they were not installed. Packages that are loaded stay.

    Call it only in a process that runs one stage, before its module is imported: what imports the
    packages remembers that they are missing.
    """
    modules: dict[str, Any] = sys.modules
    for name in packages:
        # With None, an import fails and `importlib.util.find_spec` finds nothing.
        modules.setdefault(name, None)


def left_out() -> list[str]:
    """The packages that this process left out."""
    modules: dict[str, Any] = sys.modules
    return [name for name in (*UNUSED, QUANTIZER) if modules.get(name, sys) is None]


def may_quantize(quantization: str) -> bool:
    """Whether a training may quantise its base: `auto` does so only on a GPU. Loads torch."""
    if quantization != "auto":
        return quantization != "none"
    # Not imported above: the stage preprocess loads no torch.
    return bool(importlib.import_module("torch").cuda.is_available())
