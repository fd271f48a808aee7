"""How `submit` and `batch` make a JobSpec: common options, YAML file, --set and checks.

The list of settings in `lorajob submit --help-all` is made from JobSpec by docs/make_settings.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import load_settings
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.spec import JobSpec


def complete_language(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    """Codes of languages for the shell's completion, also after a comma."""
    from lorajob.languages import known_languages

    before, comma, last = text.rpartition(",")
    codes = [it.code for it in known_languages()]
    return [before + comma + it for it in codes if it.startswith(last)]


def complete_setting(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    """Names of settings for the shell's completion."""
    return [f"{it}=" for it in settings_in_help() if it.startswith(text)]


PRIORITY = click.option(
    "--priority",
    type=click.Choice(["high", "normal", "low"]),
    default="normal",
    show_default=True,
    help="Jobs of a higher priority run first.",
)
NAME = click.option(
    "--name",
    metavar="NAME",
    help="What to call the job: letters, digits and . _ + -. Every command that takes a job takes "
    "its name. With several languages, each job's name ends with its language.",
)
TAG = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="KEY=VALUE",
    help="A tag to find the job by, with `lorajob status --tag`. May be repeated.",
)
TRACKER = click.option(
    "--tracker",
    "trackers",
    multiple=True,
    metavar="NAME,...",
    help="Also send settings, curves, results and the report to wandb or mlflow; tensorboard gets "
    "the final table. May be repeated. Keys such as WANDB_API_KEY and MLFLOW_TRACKING_URI are "
    "taken from the environment of the workers.",
)
ANEW = click.option(
    "--anew", is_flag=True, help="Queue a batch even if the same batch was submitted before."
)
WAIT = click.option(
    "--wait", is_flag=True, help="Wait for the end and show progress, as `lorajob watch` does."
)

MAPS = click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="ROLE=COLUMN",
    help="Column that holds audio, text, speaker, split, start, end or duration, such as "
    "text=raw_transcription. May be repeated.",
)

ROLES = ("audio", "text", "speaker", "split", "start", "end", "duration")

COMMON_SETTINGS = (
    "seed",
    "preprocess.max_train_clips",
    "preprocess.test_share",
    "train.epochs",
    "train.learning_rate",
    "train.batch_clips",
    "train.rank",
    "train.alpha",
    "train.warmup_steps",
    "train.decoder_only",
    "train.quantization",
    "train.keep",
    "evaluate.max_clips",
    "convert.compute_types",
)


def _settings_texts() -> dict[str, dict[str, str]]:
    """The settings and presets: term -> text.

    `docs/make_settings.py` writes them to settings.json. Making them here would load pydantic and
    build its models, which takes more time than the rest of `--help`.
    """
    texts: dict[str, dict[str, str]] = json.loads(
        Path(__file__).with_name("settings.json").read_bytes()
    )
    return texts


def settings_in_help() -> list[str]:
    """The names of the settings that `submit --help-all` lists."""
    return [line.partition("=")[0] for line in _settings_texts()["settings"]]


def write_settings(formatter: click.HelpFormatter, whole: bool) -> None:
    """Append the settings, all of them or the common ones, and the presets to a command's help."""
    texts = _settings_texts()
    lines = list(texts["settings"].items())
    if not whole:
        lines = [it for it in lines if it[0].partition("=")[0] in COMMON_SETTINGS]
    which = "Settings" if whole else "Common settings"
    with formatter.section(f"{which} of --set, with their defaults"):
        formatter.write_dl(lines, col_max=34)
    if not whole:
        more = len(texts["settings"]) - len(lines)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"`lorajob submit --help-all` lists {more} more.")
    with formatter.section("Presets"):
        formatter.write_dl(list(texts["presets"].items()))


def tracker_values(given: tuple[str, ...]) -> dict[str, object]:
    """What --tracker says, as values of a spec. Raises UsageError for an unknown tracker, and for a
    missing package if the workers are on this machine.
    """
    from typing import get_args

    from lorajob.spec import Tracker
    from lorajob.training.trackers import missing_packages, missing_text

    names = [name.strip().lower() for text in given for name in text.split(",")]
    known: tuple[Tracker, ...] = get_args(Tracker)
    for name in names:
        if name not in known:
            raise UsageError(f"--tracker: {name!r} is unknown; allowed: {', '.join(known)}")
    wanted = [name for name in known if name in names]
    # Over HTTP, the workers are on other machines.
    for name in missing_packages(wanted) if load_settings().url is None else ():
        text = missing_text(name)
        if load_settings().redis_url is None:
            raise UsageError(f"--tracker: {text}")
        click.echo(f"lorajob: {text}; the workers need it, too", err=True)
    return {"trackers": tuple(wanted)} if wanted else {}


def refuse_one_language(sets: tuple[str, ...]) -> None:
    """Raise UsageError for a language in --set: all jobs of a batch would get that language."""
    for line in sets:
        if line.partition("=")[0] == "language":
            raise UsageError(f"--set: {line!r} would make all languages of the batch one")


def read_spec(path: Path | None, option: str = "--spec") -> dict[str, object]:
    """The mapping in a YAML file. Raises UsageError if the file holds something else."""
    if path is None:
        return {}
    import yaml

    from lorajob.spec_yaml import read_yaml

    try:
        values = read_yaml(path.read_text("utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        why = error.problem or "malformed"
        raise UsageError(f"{option}: {path} is not YAML: {line}{why}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {path} is not YAML: {error}") from None
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        such = "`languages: [hi, mr]`" if option == "batch" else "`language: hi`"
        raise UsageError(f"{option}: {path} is not a mapping of settings, such as {such}")
    return values


def complete_spec(
    values: Mapping[str, object], preset: object, sets: tuple[str, ...], strict: bool = True
) -> "JobSpec":
    """A whole spec. If no corpus is named, it is looked for by language.

    Unless `strict`, an unnamed corpus stays empty, and `submit_batch` looks for it. Raises
    UsageError for a missing language, a wrong setting or a malformed base model, CorpusError if no
    corpus is found.
    """
    from lorajob.client.requests import check_base_model, check_path, find_places
    from lorajob.spec import build_spec

    named = set(values) | {line.partition("=")[0] for line in sets}
    if "language" not in named:
        raise UsageError("--lang: missing; the code or name of a language, such as hi or Hindi")
    spec = build_spec({"corpus": "", **values}, preset, sets)
    spec = find_places(spec, (lambda: load_settings().corpora) if strict else None)
    for place in spec.places:
        check_path("corpus", place)
    for guard in spec.gate.corpora:
        check_path("gate.corpora", guard.corpus)
    check_base_model(spec.base_model)
    return spec


def guard_values(guards: tuple[str, ...]) -> dict[str, object]:
    """What --guard says, as values of a spec. Raises UsageError."""
    return {"gate": {"corpora": [_guard(text) for text in guards]}} if guards else {}


def _guard(text: str) -> dict[str, str]:
    """Corpus and language of `en=CORPUS`."""
    from lorajob.languages import find_language

    name, equals, corpus = text.partition("=")
    if not equals or not re.fullmatch(r"[^\W\d_][\w -]*", name) or Path(text).exists():
        corpus, name = text, ""
    if not corpus:
        raise UsageError(f"--guard: {text!r} names no corpus; give LANGUAGE=CORPUS or CORPUS")
    if not name:
        return {"corpus": corpus}
    try:
        return {"corpus": corpus, "language": find_language(name).code}
    except UsageError as error:
        raise UsageError(f"--guard: {text!r}: {error}") from None


def corpus_values(
    corpora: tuple[str, ...], test_corpus: str | None, maps: tuple[str, ...]
) -> dict[str, object]:
    """What --corpus, --test-corpus and --map say, as values of a spec. Raises UsageError."""
    values: dict[str, object] = {}
    weighed = [_weighted(text) for text in corpora]
    if weighed:
        values["corpus"], values["corpus_weight"] = weighed[0]
        values["more_corpora"] = [{"corpus": it, "weight": weight} for it, weight in weighed[1:]]
    if test_corpus:
        values["test_corpus"] = test_corpus
    columns = {}
    for line in maps:
        role, equals, name = line.partition("=")
        if role and equals and role not in ROLES:
            raise UsageError(f"--map: {role!r} is no role; allowed: {', '.join(ROLES)}")
        if not (role and equals and name):
            raise UsageError(f"--map: {line!r} is not of the form ROLE=COLUMN, e.g. text=sentence")
        columns[role] = name
    return values | ({"preprocess": {"columns": columns}} if columns else {})


def _weighted(text: str) -> tuple[str, float]:
    """Corpus and weight of `CORPUS=0.3`. The query of a url may hold `=`, too."""
    corpus, equals, number = text.rpartition("=")
    parameter = re.split("[?&]", text)[-1] if "?" in text else ""
    if not equals or parameter.count("=") == 1:
        return text, 1.0
    try:
        weight = float(number)
        if Path(text).expanduser().exists():
            return text, 1.0
    # Not a number, or not a path.
    except (ValueError, OSError, RuntimeError):
        return text, 1.0
    if not 0 < weight <= 1:
        raise UsageError(f"--corpus: {text!r} has the weight {number}; allowed: over 0, at most 1")
    return corpus, weight
