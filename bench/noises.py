"""Count the words that tuned models invent in sounds without speech, as the gate's guard `noise`.

    python bench/noises.py JOB_DIR [JOB_DIR ...]

The adapter of the stage `train` of each job is merged into its base model, converted to
--compute-type, and hears a minute of each sound. The first row is the base model of the first job.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from lorajob.gate.hearing import Clock, LoadedModel, Slot
from lorajob.gate.noises import KINDS, invented, noise_sounds
from lorajob.job.jobdir import JobDir
from lorajob.languages import find_language
from lorajob.spec import JobSpec
from lorajob.whisper import ct2
from lorajob.whisper.base_model import local_model
from lorajob.whisper.model import merge_adapter


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=Path, nargs="+", metavar="JOB_DIR")
    parser.add_argument("--compute-type", default="int8_float32", help="of CTranslate2")
    args = parser.parse_args()
    print(f"| model | {' | '.join(KINDS)} |\n| --- |{' ---: |' * len(KINDS)}")
    for number, job in enumerate(map(JobDir, args.jobs)):
        spec = JobSpec.load(job.spec_path)
        base = local_model(spec.base_model)
        if not number:
            print(_row("base", spec, base, None, args.compute_type), flush=True)
        (adapter,) = job.stage_dir("train").rglob("adapter_config.json")
        merged = merge_adapter(base, adapter.parent)
        print(_row(job.root.name, spec, base, merged, args.compute_type), flush=True)
    return 0


def _row(name: str, spec: JobSpec, base: Path, merged: Any, compute_type: str) -> str:
    with tempfile.TemporaryDirectory(prefix="lorajob-noises-") as folder:
        model = ct2.convert(base, Path(folder, "model"), compute_type, merged)
        hearing = LoadedModel(lambda: model, Clock(None), Slot())
        token = find_language(spec.language).token
        heard = hearing.transcribe([*noise_sounds().values()], token, "brief")
    counts = [invented(lines, spec.language, "words") for lines in heard]
    return f"| {name} | {' | '.join(map(str, counts))} |"


if __name__ == "__main__":
    sys.exit(main())
