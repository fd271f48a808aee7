"""What keeps the start of a stage short: packages that it leaves out, imports without collections,
one listing of transformers' models.

transformers, peft and evaluate import packages that they find, whether the program uses them or
not. bitsandbytes loads torch's compiler. Together they take a third of the start of a stage.
"""

import gc
import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Import packages in the block whose objects live as long as this process.

    torch, transformers and peft make about a million objects. The cyclic garbage collector would
    visit them again and again during the imports, in each full collection and at the end of the
    process, which takes 2 of the 6 seconds of CPU time that a stage needs to start and end. So it
    is off in the block and ignores all objects that exist at the end of the block.

    Call it only in a process of one task: it applies to the objects of all threads.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def list_models_once() -> None:
    """Load transformers, and keep `transformers.models` from listing its files a second time.

    To list the names of all models, transformers reads its 1,600 model files. It does so twice,
    because its own cache of that keeps fewer folders than it has. Call it only in a process that
    runs one stage, before its module is imported.
    """
    transformers = importlib.import_module("transformers")
    package = Path(transformers.__file__ or "").parent / "models"
    listing = importlib.import_module("transformers.utils.import_utils")
    listed = getattr(listing, "create_import_structure_from_path", None)
    if listed is None:
        return  # another version of transformers, which works as well without this

    def once(path: str | Path) -> Any:
        # The listing by this name was the last one, so it is still kept.
        return listed(package if Path(path) == package / "__init__.py" else path)

    listing.create_import_structure_from_path = once  # type: ignore[attr-defined]


def may_quantize(quantization: str) -> bool:
    """Whether a training may quantise its base: `auto` does so only on a GPU. Loads torch."""
    if quantization != "auto":
        return quantization != "none"
    # Not imported above: the stage preprocess loads no torch.
    return bool(importlib.import_module("torch").cuda.is_available())
