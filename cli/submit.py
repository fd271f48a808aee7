"""`lorajob submit`: a job from a language, a corpus and a base model."""

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorajob.cli.options import ANEW, PRIORITY, WAIT
from lorajob.cli.service import load_settings, open_pipeline
from lorajob.errors import UsageError
from lorajob.storage.urls import is_url, public

if TYPE_CHECKING:
    from lorajob.spec import JobSpec
    from lorajob.worker.queues import Priority

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name; never a path with . or ~ first

SHOWN_LETTERS = 80  # of a path that is none


class SubmitCommand(click.Command):
    """A command whose help ends with every setting of a job."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from lorajob.cli.spec_options import write_settings

        write_settings(formatter)
        super().format_epilog(ctx, formatter)


@click.command(
    cls=SubmitCommand,
    epilog="""\b
Standard output: the job's id, alone. All else goes to standard error.
Exit code: 0 queued (with --wait: succeeded), 1 failed, cancelled or no
service, 2 wrong usage; after 2 nothing is queued.

\b
Examples:
  lorajob submit --lang hi --wait
  lorajob submit --lang ml --corpus ml.tar.gz --preset fast --set train.epochs=2
  job=$(lorajob submit --spec job.yaml) && lorajob watch $job""",
)
@click.option(
    "--lang",
    metavar="LANGUAGE,...",
    help="Code or name of the language: hi, Hindi, pa-IN. Several, as hi,mr,ta, make a batch.",
)
@click.option(
    "--corpus",
    metavar="PATH_OR_URL",
    help="Common Voice release (.tar.gz or unpacked folder), or a manifest (.tsv, .csv, .jsonl "
    "with columns audio and text, and if you like split and speaker); or the url of a release, "
    "such as s3://bucket/cv-hi.tar.gz. Without it: the newest "
    "*-LANGUAGE.tar.gz or folder named LANGUAGE in $LORAJOB_CORPORA. {language} in it becomes "
    "the language's code.",
)
@click.option(
    "--base-model",
    metavar="ID_OR_DIR",
    help="The Whisper to start from: a Hub id (openai/whisper-small, the default), a folder of "
    "a transformers model, a folder of a CTranslate2 (faster-whisper) model, or "
    "demo/whisper-base, which comes with the demo extra. Multilingual ones only.",
)
@click.option("--preset", default="default", metavar="NAME", help="Settings to start from; below.")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change one setting (listed below); may be given again. Values are YAML.",
)
@click.option(
    "--spec",
    "spec_path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file of settings (language, corpus, base_model, train: {epochs: 2}, ...). It "
    "overrides the preset; the options here and --set override the file.",
)
@PRIORITY
@ANEW
@WAIT
@click.option(
    "--worker-timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --wait: withdraw the job once its queue has had no worker for so long.",
)
@click.pass_context
def submit(
    ctx: click.Context,
    lang: str | None,
    corpus: str | None,
    base_model: str | None,
    preset: str,
    sets: tuple[str, ...],
    spec_path: Path | None,
    priority: "Priority",
    anew: bool,
    wait: bool,
    worker_timeout: float | None,
) -> None:
    """Queue a job that tunes Whisper for a language, and print its id.

    The job runs four stages: preprocess reads and checks the corpus, train fits a LoRA adapter,
    evaluate measures word and character error rates before and after, convert makes the model
    that faster-whisper runs. Workers do it; see `lorajob up` or `lorajob worker`.

    Relative paths, in the file of --spec too, start from the folder you are in.
    """
    if worker_timeout is not None and not wait:
        raise UsageError("--worker-timeout: means something only together with --wait")
    flags = {"language": lang, "corpus": corpus, "base_model": base_model}
    values = read_spec(spec_path) | {name: value for name, value in flags.items() if value}
    languages = [name.strip() for name in (lang or "").split(",")]
    if len(languages) > 1:
        if not all(languages):
            raise UsageError("--lang: an empty name between commas; such as hi,mr,ta")
        refuse_one_language(sets)
        if worker_timeout is not None:
            raise UsageError("--worker-timeout: is for one language, not for a batch")
        specs = [
            complete_spec(values | {"language": one}, preset, sets, strict=False)
            for one in languages
        ]
        from lorajob.cli.batch import submit_specs

        ctx.exit(submit_specs(open_pipeline(), specs, priority, anew, wait))
    spec = complete_spec(values, preset, sets)
    pipeline = open_pipeline()
    job_id = pipeline.submit(spec, priority)
    click.echo(job_id)
    if wait:
        from lorajob.cli.watch import follow_to_exit_code

        ctx.exit(follow_to_exit_code(pipeline, job_id, worker_timeout))


def refuse_one_language(sets: tuple[str, ...]) -> None:
    """Raise UsageError for a language in --set, which would be that of every job of a batch."""
    for line in sets:
        if line.partition("=")[0] == "language":
            raise UsageError(f"--set: {line!r} would make all languages of the batch one")


def read_spec(path: Path | None, option: str = "--spec") -> dict[str, Any]:
    """The mapping in a YAML file; UsageError where it holds something else."""
    if path is None:
        return {}
    import yaml

    from lorajob.spec_yaml import read_yaml

    try:
        values = read_yaml(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {path} is not YAML: {error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{option}: {path} holds no mapping of settings, such as `language: hi`")
    return values


def complete_spec(
    values: dict[str, Any], preset: str, sets: tuple[str, ...], strict: bool = True
) -> "JobSpec":
    """A whole spec, its corpus found where none is named; unless `strict`, that is left to
    `submit_batch`, and the corpus is empty.

    Raises UsageError for a missing language, a setting that is wrong or a base model of no known
    form, CorpusError where no corpus is found.
    """
    from lorajob.corpora import find_corpus
    from lorajob.spec import build_spec

    named = set(values) | {line.partition("=")[0] for line in sets}
    if "language" not in named:
        raise UsageError("--lang: missing; the code or name of a language, such as hi or Hindi")
    spec = build_spec({"corpus": ""} | values, preset, sets)
    corpus = spec.corpus.replace("{language}", spec.language)
    if not corpus and strict:
        corpus = str(find_corpus(load_settings().corpora, spec.language))
    spec = spec.model_copy(update={"corpus": corpus})
    _check_path("corpus", spec.corpus)
    check_base_model(spec.base_model)
    return spec


def _check_path(name: str, text: str) -> None:
    """Raise UsageError for what can be no path: its ~ is the home of nobody, a name in it is too
    long, or it holds a null byte. Whether there is such a file is not asked.
    """
    if is_url(text):
        return
    short = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."
    try:
        Path(text).expanduser().stat()
    except RuntimeError:
        raise UsageError(f"{name}: {short!r} is in the home of nobody here") from None
    except ValueError as error:
        raise UsageError(f"{name}: {short!r} is no path: {error}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{name}: {short!r} is no path: {error.strerror}") from None


def check_base_model(text: str) -> None:
    """Raise UsageError unless it is a folder that is here or may be a Hub id."""
    _check_path("base_model", text)
    here = Path(text)
    if text.startswith("~"):
        here = here.expanduser()
    if not here.is_dir() and (here.exists() or not HUB_ID.fullmatch(text)):
        raise UsageError(
            f"base_model: {public(text)!r} is no folder here and no Hub id"
            " such as openai/whisper-small"
        )
