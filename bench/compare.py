"""Compare lorajob with the public recipe and a fair baseline, on the same clips and epochs.

    python bench/compare.py --corpus cv-corpus-ml.tar.gz --lang ml --epochs 1 --json ml.json

The sides of the comparison (`--sides`):

ours      lorajob with its default settings
recipe    the public recipe, seed_recipe.py: Seq2SeqTrainer, q and v, eight clips a step
fair      fair_baseline.py: Seq2SeqTrainer with the layers, rate, precision and steps of `ours`
earlier   the training of another version of lorajob, from --earlier CHECKOUT
NAME      lorajob with other settings: --variant "NAME=train.rank=16 train.alpha=32"

Each training runs in its own process. Its CPU seconds come from the kernel and include start-up and
loading of the model. lorajob's stages run without a service and with an empty cache. All sides are
scored alike: the merged model, converted to --compute-type, decodes the same test clips, and the
same clips joined to files of a minute with pauses, by faster-whisper's defaults with the language
given. Differences to the first side are paired, with 95 % intervals over speakers, or over clips if
fewer than three speakers are known.

With --work FOLDER, finished trainings and transcripts are kept, and taken by the next run.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare_table import table
from fair_baseline import ADAPTER, SETTINGS, Settings
from quality import joined
from real_speech import RESULTS

from lorajob.decoding.delivered import listen
from lorajob.decoding.fast import Sound
from lorajob.job.jobdir import JobDir, write_json
from lorajob.languages import find_language
from lorajob.spec import JobSpec, build_spec
from lorajob.speech.audio import SAMPLE_RATE, Samples
from lorajob.speech.clipstore import ClipStore
from lorajob.speech.sample import balanced
from lorajob.whisper import ct2
from lorajob.whisper.base_model import local_model
from lorajob.whisper.model import merge_adapter, pick_precision

BENCH = Path(__file__).parent
RECIPE, FAIR = BENCH / "seed_recipe.py", BENCH / "fair_baseline.py"
SIDES = ("ours", "recipe", "fair")
DEMO_TRAIN_CLIPS, DEMO_TEST_CLIPS = 96, 24
# A program for another version of lorajob: values, settings -> spec.
WRITE_SPEC = """
import json, sys
from lorajob.spec import build_spec
values, sets = json.load(sys.stdin)
print(json.dumps(build_spec(values, "default", sets).model_dump(mode="json")))
"""


@dataclass(frozen=True)
class Trained:
    """A finished training: CPU seconds and bytes by name, and the folder of the adapter."""

    figures: dict[str, Any]
    adapter: Path


@dataclass(frozen=True)
class Bench:
    """What all trainings of a comparison share."""

    args: argparse.Namespace
    work: Path
    corpus: Path

    @property
    def base(self) -> Path:
        """The folder of the base model. It is converted once, before the measurements."""
        return local_model(self.args.base_model)

    def values(self) -> dict[str, Any]:
        args = self.args
        corpus = str(self.corpus.resolve())
        return {"language": args.lang, "corpus": corpus, "base_model": args.base_model}

    def sets(self, seed: int, more: Sequence[str] = ()) -> list[str]:
        """The settings of a training of lorajob."""
        args = self.args
        sets = [f"seed={seed}"] if seed else []
        sets += [f"train.epochs={args.epochs}"] if args.epochs else []
        sets += [f"preprocess.max_train_clips={args.limit_train}"] if args.limit_train else []
        sets += [f"preprocess.max_test_clips={args.limit_test}"] if args.limit_test else []
        return [*sets, *args.sets, *more]

    def job(self, side: str, seed: int) -> JobDir:
        return JobDir(self.work / f"{side}-{seed}")

    def store(self, split: str) -> ClipStore:
        """The clips of all sides, as lorajob's first training has read them."""
        return ClipStore(self.job("ours", 0).stage_dir("preprocess") / split)


def main() -> int:
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="lorajob-compare-") as name:
        work = (args.work or Path(name)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ["LORAJOB_HOME"] = str(work / "home")
        bench = Bench(args, work, args.corpus or _spoken(work))
        same_as_before(bench)
        found = {
            side: [measured(bench, side, seed) for seed in range(args.seeds)]
            for side in [*args.sides, *args.variants]
        }
        section = table(args, bench.corpus.name, found)
    if args.json:
        write_json(args.json, found)
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write(section)
    print(section)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="release or manifest; default: the demo's")
    parser.add_argument("--lang", default="hi", help="code of the language (default: hi)")
    parser.add_argument("--base-model", default="demo/whisper-base", help="as for submit")
    parser.add_argument("--sides", nargs="+", choices=[*SIDES, "earlier"], default=list(SIDES))
    parser.add_argument("--earlier", type=Path, metavar="CHECKOUT", help="for the side earlier")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=SETTINGS")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each side")
    parser.add_argument("--limit-train", type=int, help="use so many of the training clips")
    parser.add_argument("--limit-test", type=int, help="use so many of the test clips")
    parser.add_argument(
        "--score-clips", type=int, help="decode so many of the test clips, and no joined files"
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--compute-type", default="float16", help="of the models that are scored")
    parser.add_argument("--work", type=Path, help="folder to keep, in place of a temporary one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--results", type=Path, help=f"append a table here, such as {RESULTS.name}")
    args = parser.parse_args()
    args.variants = dict(it.split("=", 1) for it in args.variant)
    if args.sides[0] != "ours":
        parser.error("--sides: ours has to be the first one")
    if "earlier" in args.sides and args.earlier is None:
        parser.error("--sides earlier needs --earlier CHECKOUT")
    if args.corpus is None:  # a small default corpus
        args.limit_train = args.limit_train or DEMO_TRAIN_CLIPS
        args.limit_test = args.limit_test or DEMO_TEST_CLIPS
    return args


def same_as_before(bench: Bench) -> None:
    """Exit if the folder has results of other clips or settings."""
    args, path = bench.args, bench.work / "asked.json"
    asked = bench.values() | {
        "sets": bench.sets(0),
        "compute_type": args.compute_type,
        "score_clips": args.score_clips,
    }
    if path.exists() and json.loads(path.read_text("utf-8")) != asked:
        sys.exit(f"--work: {bench.work} has results of other clips or settings; name a new folder")
    write_json(path, asked)


def measured(bench: Bench, side: str, seed: int) -> dict[str, Any]:
    """The figures and transcripts of one training, from an earlier run if it has them."""
    path = bench.work / f"{side}-{seed}.json"
    settings = bench.args.variants.get(side, "")
    if not path.exists():
        trained = _trained(bench, side, seed)
        heard = transcripts(bench, bench.work / trained["adapter"])
        write_json(path, trained | heard | {"settings": settings})
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if result["settings"] != settings:
        sys.exit(f"--variant: {path} has other settings; use another name than {side}")
    return result


def _trained(bench: Bench, side: str, seed: int) -> dict[str, Any]:
    """The figures of one training, and its adapter's folder below the work folder."""
    path = bench.work / f"{side}-{seed}-trained.json"
    if not path.exists():
        kinds: dict[str, Callable[[Bench, str, int], Trained]]
        kinds = {"recipe": train_recipe, "fair": train_fair, "earlier": train_earlier}
        trained = kinds.get(side, train_ours)(bench, side, seed)
        adapter = str(trained.adapter.relative_to(bench.work))
        write_json(path, trained.figures | {"adapter": adapter})
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return result


def train_ours(bench: Bench, side: str, seed: int) -> Trained:
    """Run lorajob's first two stages."""
    job = bench.job(side, seed)
    more = bench.args.variants.get(side, "").split()
    spec = build_spec(bench.values(), "default", bench.sets(seed, more))
    write_json(job.spec_path, spec.model_dump(mode="json"))
    assert bench.base.exists()
    took = _train(job, bench.job("ours", 0))
    return Trained(took | of_job(job), job.stage_dir("train") / "adapter")


def _train(job: JobDir, first: JobDir, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Train on the clips that `first` has read. Returns the CPU seconds by name."""
    took: dict[str, Any] = {}
    if job != first:
        shutil.copytree(first.stage_dir("preprocess"), job.stage_dir("preprocess"))
    else:
        take_stage(job, "preprocess", took, "prepare", env)
    take_stage(job, "train", took, "train", env)
    return took


def of_job(job: JobDir) -> dict[str, Any]:
    """The figures of a job that has been trained, by name."""
    read, trained = job.result("preprocess"), job.result("train")
    assert read is not None and trained is not None
    found = {name: read.as_json()[name] for name in ("bytes", "train_clips", "test_clips")}
    # A short training writes no forecast.
    path = job.stage_dir("train") / "forecast.json"
    forecast = json.loads(path.read_text("utf-8")) if path.exists() else None
    return found | {"forecast": forecast, "steps": trained.as_json()["steps"]}


def train_earlier(bench: Bench, side: str, seed: int) -> Trained:
    """Run the first two stages of another version, which has to choose the same clips."""
    job = bench.job(side, seed)
    env = os.environ | {"PYTHONPATH": str((bench.args.earlier / "src").resolve())}
    given = json.dumps([bench.values(), bench.sets(seed)])
    spec = subprocess.run(
        [sys.executable, "-c", WRITE_SPEC],
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        check=True,
    ).stdout
    write_json(job.spec_path, json.loads(spec))
    took = _train(job, bench.job(side, 0), env)
    for split in ("train", "test"):
        theirs = ClipStore(job.stage_dir("preprocess") / split)
        if theirs.ids != bench.store(split).ids:
            sys.exit(f"--earlier: {bench.args.earlier} chooses other clips for {split}")
    return Trained(took, job.stage_dir("train") / "adapter")


def train_recipe(bench: Bench, side: str, seed: int) -> Trained:
    """Run the recipe on the clips that lorajob kept."""
    work, took = _recipe_folder(bench, seed)
    _timed([sys.executable, str(RECIPE), "train", str(work)], took, "train")
    return Trained(took, work / "adapter")


def train_fair(bench: Bench, side: str, seed: int) -> Trained:
    """Run the fair baseline on the clips that lorajob kept, with its settings and steps."""
    work, took = _recipe_folder(bench, seed)
    job = bench.job("ours", seed)
    train, done = JobSpec.load(job.spec_path).train, of_job(job)
    history = (job.stage_dir("train") / "history.jsonl").read_text("utf-8").splitlines()
    settings = Settings(
        rank=train.rank,
        alpha=train.alpha,
        dropout=train.dropout,
        target_modules=train.target_modules,
        learning_rate=max(json.loads(line)["learning_rate"] for line in history),
        precision=pick_precision(train.precision, _device()),
        epochs=train.epochs,
        steps=done["steps"],
    )
    write_json(work / SETTINGS, settings.model_dump(mode="json"))
    _timed([sys.executable, str(FAIR), str(work)], took, "train")
    return Trained(took | {"steps": settings.steps}, work / ADAPTER)


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _recipe_folder(bench: Bench, seed: int) -> tuple[Path, dict[str, Any]]:
    """The folder in which the recipe's data are prepared, and what that cost."""
    work = bench.work / f"recipe-data-{seed}"
    done = work / "prepared.json"
    if not done.exists():
        work.mkdir(exist_ok=True)
        language = find_language(bench.args.lang)
        values = bench.values() | {
            "base": str(bench.base),
            "language": language.code,
            "language_name": language.token,
            "epochs": bench.args.epochs,
            "seed": seed,
            "train": bench.store("train").ids,
            "test": bench.store("test").ids,
        }
        write_json(work / "recipe.json", values)
        took: dict[str, Any] = {}
        _timed([sys.executable, str(RECIPE), "prepare", str(work)], took, "prepare")
        took["bytes"] = sum(path.stat().st_size for path in work.glob("*.arrow"))
        write_json(done, took)
    result: dict[str, Any] = json.loads(done.read_text("utf-8"))
    return work, result


def transcripts(bench: Bench, adapter: Path) -> dict[str, Any]:
    """What faster-whisper hears with the model: pairs of reference and hypothesis."""
    args, store = bench.args, bench.store("test")
    token = find_language(args.lang).token
    places = list(range(len(store)))
    if args.score_clips:
        places = balanced(places, store.ids, store.speakers, args.score_clips, 0)
    single = [(store.texts[it], store.audio(it)) for it in places]
    long = [] if args.score_clips else list(joined(store))
    with tempfile.TemporaryDirectory(dir=bench.work) as name:
        merged = merge_adapter(bench.base, adapter)
        model = ct2.convert(bench.base, Path(name, "model"), args.compute_type, merged)
        started = time.process_time()
        heard = {
            kind: _heard(model, token, clips)
            for kind, clips in (("single", single), ("long", long))
        }
    speakers = {"speakers": [store.speakers[it] for it in places]}
    return heard | speakers | {"decode": time.process_time() - started}


def _heard(model: Path, token: str, clips: Sequence[tuple[str, Samples]]) -> list[tuple[str, str]]:
    sounds = [Sound(len(audio) / SAMPLE_RATE, lambda audio=audio: audio) for _, audio in clips]
    heard = listen(model, token, sounds).clips
    return [(text, it.text) for (text, _), it in zip(clips, heard, strict=True)]


def take_stage(
    job: JobDir, stage: str, took: dict[str, Any], name: str, env: dict[str, str] | None = None
) -> None:
    """Run a stage of lorajob, and note its CPU seconds under `name`."""
    _timed([sys.executable, "-m", "lorajob.stage", stage, str(job.root)], took, name, env)


def _timed(
    command: list[str], took: dict[str, Any], name: str, env: dict[str, str] | None = None
) -> None:
    """Run a command, and note its CPU seconds, user and system, with those of its children."""
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=env or os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took[name] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"  {took[name]:.0f} CPU s", file=sys.stderr, flush=True)


def _spoken(work: Path) -> Path:
    from lorajob.demo.speech import demo_corpus

    return demo_corpus(work / "corpora")


if __name__ == "__main__":
    sys.exit(main())
