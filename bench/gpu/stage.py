"""Run `lorajob.stage` as the service does, with limited GPU memory.

    python bench/gpu/stage.py FACTS train JOB_DIR [--attempt N]

LORAJOB_BENCH_GB limits the GPU's memory. The peak of used GPU memory, in bytes, is written to the
file FACTS as JSON.
"""

import json
import os
import sys
from pathlib import Path


def main() -> int:
    import torch

    from lorajob import stage

    limit = os.environ.get("LORAJOB_BENCH_GB")
    if limit and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, float(limit) * 1e9 / total))
    try:
        return stage.main(sys.argv[2:])
    finally:
        if torch.cuda.is_available():
            facts = {
                "allocated": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved(),
            }
            Path(sys.argv[1]).write_text(json.dumps(facts), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
