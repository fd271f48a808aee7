"""Base models in CTranslate2's format, to be served beside tuned ones.

`python -m lorajob.serving.bases NAME` converts one and prints its folder. It is a process of its
own, because it loads torch.
"""

import os
import subprocess
import sys
from pathlib import Path

from lorajob.errors import LorajobError, ModelError, first_line

NEEDED = ("model.bin", "config.json", "tokenizer.json")  # of a folder that is served as it is
COMPUTE_TYPE = "int8_float16"  # int8 weights, which are fast on CPUs and GPUs


def base_folder(name: str) -> Path:
    """The CTranslate2 folder of a base: such a folder itself, or a conversion that is made once.

    `name` is also a transformers folder, `demo/whisper-base` or a Hub id. Raises ModelError.
    """
    path = Path(name).expanduser()
    if all((path / it).is_file() for it in NEEDED) and any(path.glob("vocabulary.*")):
        return path.resolve()
    if path.is_absolute() and not path.is_dir():
        raise ModelError(f"--models: {name} is not a folder")
    run = subprocess.run(
        [sys.executable, "-m", "lorajob.serving.bases", name],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    lines = (run.stdout if run.returncode == 0 else run.stderr).strip().splitlines()
    if run.returncode or not lines:
        reason = lines[-1] if lines else f"its conversion ended with {run.returncode}"
        raise ModelError(f"--models: {name}: {reason}")
    return Path(lines[-1])


def main(name: str) -> int:
    """Convert a base, if that was not done before, and print the folder."""
    from lorajob.whisper import ct2
    from lorajob.whisper.base_model import local_model, made_once
    from lorajob.whisper.identity import identify

    try:
        source = local_model(name)
        digest = identify(source).sha256

        def convert(target: Path) -> None:
            ct2.convert(source, target, COMPUTE_TYPE)

        folder = made_once(f"served-{digest[:12]}", convert)
    except LorajobError as error:
        print(first_line(error).removeprefix("base_model: "), file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
