#!/usr/bin/env bash
# What lorajob does on this machine's GPU, beside the public recipe and a fair baseline.
#
#     bench/gpu/run.sh [--part NAME]... [--out DIR] [--tokenizer DIR]     see bench/gpu/run.py --help
#
# Uses the python3 (or $PYTHON) and the torch that it finds, and no network. Packages that are
# missing come from wheels in $LORAJOB_WHEELS (default: bench/gpu/wheels).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
wheels=${LORAJOB_WHEELS:-bench/gpu/wheels}
site=${TMPDIR:-/tmp}/lorajob-bench-site
if compgen -G "$wheels/*.whl" > /dev/null && [ ! -e "$site/.complete" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$site" "$wheels"/*.whl
    touch "$site/.complete"
fi
export PYTHONPATH="$PWD/src:$PWD/bench/gpu:$PWD/bench${site:+:$site}${PYTHONPATH:+:$PYTHONPATH}"
"$python" - <<'CHECK'
import importlib.util, sys
needed = "typing_inspection torch transformers peft accelerate pydantic pydantic_settings safetensors tokenizers pyarrow"
needed += " soundfile soxr jiwer tensorboard"
missing = [name for name in needed.split() if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"missing packages: {', '.join(missing)}; install them or put wheels into bench/gpu/wheels")
CHECK
exec "$python" bench/gpu/run.py "$@"
