"""The tuned model in CTranslate2's format, kept between evaluation and conversion.

Evaluation measures the model that conversion delivers. It leaves the model in this machine's cache,
not among its files: there the model would be stored twice, 3 GB each for a large one. On
another machine conversion makes the model again and compares its hash with the measured one.
"""

import gc
from collections.abc import Sequence
from pathlib import Path

import ctranslate2
from transformers import WhisperForConditionalGeneration

from lorajob.job.jobdir import hash_file, hash_files
from lorajob.storage import cache
from lorajob.whisper import ct2
from lorajob.whisper.model import PROCESSOR_FILES, merge_adapter, suppress_less

# Version of the conversion, part of the cache key: raise it with every change.
VERSION = 1
KIND = "converted"
WEIGHTS = "model.bin"
# Files beside the weights that decide what a model decodes.
SETTINGS = ("config.json", "generation_config.json", *PROCESSOR_FILES)


def base_hashes(folder: Path) -> list[str]:
    """Hashes of the files of a base model that decide what it decodes."""
    files = [*sorted(folder.glob("*.safetensors")), *(folder / name for name in SETTINGS)]
    return [hash_file(path) for path in files if path.is_file()]


def delivered_model(
    folder: Path,
    adapter: Path,
    allowed: Sequence[int],
    compute_type: str,
    target: Path,
    merged: WhisperForConditionalGeneration | None = None,
) -> str:
    """Write the base in `folder` with `adapter` to `target` in CTranslate2's format.

    The model may say the tokens `allowed` although its base does not. It comes from the cache or is
    converted, with the weights of `merged` if that is given. Returns
    the hash of the weights. Raises ModelError.
    """
    name = cache.key(
        version=VERSION,
        base=base_hashes(folder),
        adapter=hash_files(adapter),
        allowed=list(allowed),
        compute_type=compute_type,
        ctranslate2=ctranslate2.__version__,
    )
    if cache.lookup(KIND, name, target) is None:
        model = merge_adapter(folder, adapter) if merged is None else merged
        suppress_less(model, allowed)
        ct2.convert(folder, target, compute_type, model)
        cache.keep(KIND, name, {}, target)
        del model
        gc.collect()
    return hash_file(target / WEIGHTS)
