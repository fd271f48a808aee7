"""Run the parts of the GPU benchmark and print the table of results.

    bench/gpu/run.sh [--part NAME]... [--out DIR] [--tokenizer DIR]

Each part takes under two minutes and writes DIR/PART.json at its end. A part is skipped if it has
such a file for the same code and the same GPU. At the end the table of all parts is printed and
written to DIR/table.md.

Nothing is downloaded: models have random weights in published shapes (bench/gpu/models.py), and
clips are noise, as long as real clips. Random weights need the same arithmetic as trained ones.
"""

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from models import REAL, SHAPES, needed_flops
from parts import CLIPS, HERE, MATRIX, PARTS, TRAININGS, Bench

from lorajob.demo.packaged import PACKAGES
from lorajob.job.jobdir import write_json

SERVICE_FOLDERS = {"cli", "client", "server", "tasks", "worker"}
SOURCES = HERE.parents[1] / "src" / "lorajob"
RECIPE = HERE.parent / "seed_recipe.py"
HOUR = 3600.0
MEASURED = ("large-v3", "turbo", "small", "base")
DEFAULT = [
    "card",
    *(f"{name}-{shape}" for shape in MEASURED for name in TRAININGS),
    *([f"lorajob-{REAL}"] if all(map(importlib.util.find_spec, PACKAGES)) else []),
    "precision-base",
    "memory",
    "resume-base",
    "forecast-small",
    "decode-large-v3",
]


def code_digest() -> str:
    """A hash of the code of library and benchmark. Rows of other code are measured again."""
    digest = hashlib.sha256()
    paths = [*sorted(SOURCES.rglob("*.py")), *sorted(HERE.rglob("*.py")), RECIPE]
    for path in paths:
        if not path.is_symlink() and not SERVICE_FOLDERS & set(path.parts):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table of all known results, as Markdown."""
    found = rows.get("card", {})
    tflops = found.get("tflops")
    lines = [
        f"Card: {found.get('name')}, {found.get('memory_gb') or 0:.0f} GB, "
        f"torch {torch.__version__}; a {MATRIX} x {MATRIX} bf16 product runs at "
        f"{tflops or 0:.0f} TFLOP/s.\n",
        "| | clips a step | clips an hour | audio hours an hour | of the product's rate | peak GB |"
        " first step, s | waiting |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        if "clip_sizes" not in row:
            continue
        shape = next(it for it in SHAPES if name.split("+")[0].endswith(it))
        per_second = row["clips"] / row["seconds"]
        hours = row["audio_seconds"] / row["seconds"]
        flops = needed_flops(SHAPES[shape], *zip(*row["clip_sizes"], strict=True)) / row["seconds"]
        share = f"{flops / tflops / 1e10:.0f} %" if tflops else ""
        peak = f"{row['peak_bytes'] / 1e9:.1f}" if row.get("peak_bytes") else ""
        waited = f"{100 * row['waited']:.1f} %" if "waited" in row else ""
        lines.append(
            f"| {name} | {row['batch_clips']} | {per_second * HOUR:,.0f} | {hours:,.0f} | "
            f"{share} | {peak} | {row['first_step_seconds']:.0f} | {waited} |"
        )
    for name, row in rows.items():
        if "clip_sizes" not in row and name != "card":
            shown = {k: v for k, v in row.items() if k not in ("log", "code", "card_name")}
            lines.append(f"\n{name}: `{json.dumps(shown)}`")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=[*PARTS, "all"], metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the parts' names")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of results")
    parser.add_argument("--work", type=Path, help="folder for models and jobs; default: temporary")
    parser.add_argument("--tokenizer", type=Path, help="folder of whisper-base's small files")
    parser.add_argument("--seconds", type=float, default=12.0, help="time to measure a training")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    if args.list:
        print("\n".join(PARTS))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = args.tokenizer or packaged_tokenizer()
    wanted = DEFAULT if not args.part or "all" in args.part else args.part
    digest = code_digest()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args.out, args.work or Path(scratch), tokenizer, args.seconds, args.clips)
        for part in wanted:
            path = args.out / f"{part}{''.join(f'+{it}' for it in args.sets)}.json"
            if path.exists():
                kept = json.loads(path.read_text("utf-8"))
                if (kept.get("code"), kept.get("card_name")) == (digest, name):
                    print(f"{part}: measured before", file=sys.stderr)
                    continue
            started = time.monotonic()
            print(f"{part} ...", file=sys.stderr, flush=True)
            function, shape = PARTS[part]
            try:
                given = function(bench, shape, *args.sets) if args.sets else function(bench, shape)
            # The other parts still run.
            except Exception as error:
                failed += 1
                print(f"{part} failed: {error}", file=sys.stderr, flush=True)
                continue
            write_json(path, given | {"code": digest, "card_name": name})
            print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    rows = {}
    order = {it: number for number, it in enumerate(PARTS)}
    for path in sorted(args.out.glob("*.json"), key=lambda it: order.get(it.stem.split("+")[0], 0)):
        row = json.loads(path.read_text("utf-8"))
        if row.get("card_name") == name:
            rows[path.stem] = row
    text = table(rows)
    (args.out / "table.md").write_text(text, "utf-8")
    print(text)
    return 1 if failed else 0


def packaged_tokenizer() -> Path:
    """The folder of whisper-base, from the packages of the extra `demo`."""
    from lorajob.whisper.base_model import local_model

    return local_model("demo/whisper-base")


if __name__ == "__main__":
    sys.exit(main())
