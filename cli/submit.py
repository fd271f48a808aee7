"""`lorajob submit`: queue a job for a language, a corpus and a base model."""

import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import open_client
from lorajob.cli.spec_options import (
    ANEW,
    MAPS,
    NAME,
    PRIORITY,
    TAG,
    TRACKER,
    WAIT,
    complete_language,
    complete_setting,
    complete_spec,
    corpus_values,
    guard_values,
    read_spec,
    refuse_one_language,
    tracker_values,
    write_settings,
)
from lorajob.errors import LorajobError, UsageError

if TYPE_CHECKING:
    from lorajob.client.job import Job
    from lorajob.client.service import Client
    from lorajob.spec import JobSpec
    from lorajob.worker.queues import Priority


HELP_ALL = "lorajob.help_all"
log = logging.getLogger(__name__)

COMMON = ("lang", "corpora", "base_model", "name", "preset", "sets", "wait")  # come first in help


class SubmitCommand(click.Command):
    """A command whose help has common options first, and settings of a job.

    `--help-all` lists all settings.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and explain an argument where an option is meant."""
        allowed, ctx.allow_extra_args = ctx.allow_extra_args, True
        given = list(args)
        super().parse_args(ctx, args)
        ctx.allow_extra_args = allowed
        if ctx.args and not ctx.resilient_parsing:
            before = given[given.index(ctx.args[0]) - 1] if ctx.args[0] in given else ""
            ctx.fail(_explain_extra(ctx.args, before))
        return ctx.args

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        texts = {
            it.name: found for it in self.get_params(ctx) if (found := it.get_help_record(ctx))
        }
        common = {name: texts.pop(name) for name in COMMON}
        with formatter.section("Options"):
            formatter.write_dl(list(common.values()))
        with formatter.section("More options"):
            formatter.write_dl(list(texts.values()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_settings(formatter, whole=bool(ctx.meta.get(HELP_ALL)))
        super().format_epilog(ctx, formatter)


def _explain_extra(extra: list[str], before: str) -> str:
    """What to do about arguments, which `submit` does not have. `before` is what precedes them."""
    from lorajob.languages import find_language

    text = " ".join(extra)
    path = Path(extra[0])
    try:
        code = find_language(extra[0]).code
    except UsageError:
        code = ""
    if code:
        return f"unexpected argument {text!r}: a language is given as `--lang {code}`"
    if before in ("--wait", "--anew", "--allow-script", "--allow-leakage"):
        return f"unexpected argument {text!r}: {before} has no value; leave {text} out"
    if re.fullmatch(r"=|[-+]?\d[\d.e+-]*", extra[0]):
        return f"unexpected argument {text!r}: a setting is one word, as in `--set train.epochs=3`"
    if path.exists() or "/" in extra[0] or ":" in extra[0]:
        return f"unexpected argument {text!r}: a corpus is given as `--corpus {extra[0]}`"
    return f"unexpected argument {text!r}: all is given by options, such as `--lang hi`"


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


@click.command(
    cls=SubmitCommand,
    epilog="""\b
Standard output: only the job's id. All else goes to standard error.
Exit code: 0: queued (with --wait: succeeded). 1: failed, cancelled, or
no service. 2: wrong usage; nothing was queued.

\b
Examples:
  lorajob submit --lang hi --wait
  lorajob submit --lang ml --corpus ml.tar.gz --preset fast --set train.epochs=2
  job=$(lorajob submit --spec job.yaml) && lorajob watch $job""",
)
@click.option(
    "--lang",
    metavar="LANGUAGE,...",
    shell_complete=complete_language,
    help="Code or name of a language, such as hi, Hindi or pa-IN. Several, such as hi,mr,ta, are "
    "queued as a batch, one job each.",
)
@click.option(
    "--corpus",
    "corpora",
    multiple=True,
    metavar="PATH_OR_URL",
    help="Common Voice release (.tar.gz or unpacked folder); or its url, such as "
    "s3://bucket/cv_hi.tar.gz; or a manifest (.tsv, .csv, .jsonl) with columns audio and text, "
    "and optionally split and speaker; or hf:OWNER/NAME?config=hi_in of the Hub; or "
    "mdc:DATASET_ID; or any layout of docs/corpora.md. {language} in it becomes the language's "
    "code. May be repeated. PATH=0.3 takes 30 % of the training clips of that corpus. Default: the "
    "newest *-LANGUAGE.tar.gz or folder named LANGUAGE in $LORAJOB_CORPORA.",
)
@click.option(
    "--test-corpus",
    metavar="PATH_OR_URL",
    help="Corpus to test on, instead of the test split of --corpus. Its test split is used, or all "
    "of it if it has none.",
)
@click.option(
    "--guard",
    "guards",
    multiple=True,
    metavar="[LANGUAGE=]CORPUS",
    help="Corpus on which the model must not get worse than its base, such as en=calls.tsv: a "
    "guard of the gate (gate.max_guard_rise). May be repeated.",
)
@click.option(
    "--text",
    metavar="FILE_OR_URL",
    help="Text in the language, a sentence a line: a model of it helps to choose the right words, "
    "if it does on clips of the training (evaluate.text). Or its url, or "
    "hf:OWNER/NAME?column=text. Default: the text of `lorajob lm` for the language.",
)
@MAPS
@click.option(
    "--allow-script",
    is_flag=True,
    help="Accept texts in another script than the language is usually written in.",
)
@click.option(
    "--allow-leakage",
    is_flag=True,
    help="Accept recordings that are in training and in test: the error rates are too good.",
)
@click.option(
    "--base-model",
    metavar="ID_OR_DIR",
    help="Multilingual Whisper to start from: a Hub id (default: openai/whisper-small), the folder "
    "of a transformers model or of a CTranslate2 (faster-whisper) model, or demo/whisper-base, "
    "which is in the demo extra.",
)
@click.option(
    "--from",
    "start",
    metavar="JOB",
    help="Start from the adapter of this job, by id or name, instead of a new one. The base model "
    "and the adapter's shape are that job's.",
)
@click.option(
    "--preset", default="default", metavar="NAME", help="Settings to start from, in the list below."
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    shell_complete=complete_setting,
    help="Change one setting, in the list below. May be repeated. Values are YAML.",
)
@click.option(
    "--spec",
    "spec_path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file of settings (language, corpus, base_model, train: {epochs: 2}, ...). It "
    "overrides the preset. --lang, --corpus, --base-model and --set override the file.",
)
@NAME
@TAG
@TRACKER
@PRIORITY
@ANEW
@WAIT
@click.option(
    "--worker-timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --wait: cancel the job when its queue has had no worker for this many seconds.",
)
@click.option(
    "--help-all",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show this help with all settings.",
)
@click.pass_context
def submit(
    ctx: click.Context,
    lang: str | None,
    corpora: tuple[str, ...],
    test_corpus: str | None,
    guards: tuple[str, ...],
    text: str | None,
    maps: tuple[str, ...],
    allow_script: bool,
    allow_leakage: bool,
    base_model: str | None,
    start: str | None,
    preset: str,
    sets: tuple[str, ...],
    spec_path: Path | None,
    name: str | None,
    tags: tuple[str, ...],
    trackers: tuple[str, ...],
    priority: "Priority",
    anew: bool,
    wait: bool,
    worker_timeout: float | None,
) -> None:
    """Queue a job that tunes Whisper for a language, and print its id.

    The job has four stages: preprocess reads and checks the corpus; train trains a LoRA adapter;
    evaluate measures word and character error rates before and after; convert makes the model for
    faster-whisper. Workers run the stages; see `lorajob up` and `lorajob worker`.

    Relative paths start from the current folder, also in the file of --spec.
    """
    if worker_timeout is not None and not wait:
        raise UsageError("--worker-timeout: needs --wait")
    from lorajob.tasks.naming import parse_naming

    naming = parse_naming(name, tags)

    values = job_values(
        lang=lang,
        corpora=corpora,
        test_corpus=test_corpus,
        guards=guards,
        text=text,
        maps=maps,
        allow_script=allow_script,
        allow_leakage=allow_leakage,
        base_model=base_model,
        start=start,
        spec_path=spec_path,
        trackers=trackers,
    )
    client = open_client()
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

        ctx.exit(submit_specs(client, specs, priority, anew, wait, naming))
    spec = complete_spec(values, preset, sets)
    job = client.submit_spec(spec, priority, naming)
    tell_twin(client, job, spec)
    click.echo(job.id)
    if wait:
        from lorajob.cli.watch import follow_to_exit_code

        ctx.exit(follow_to_exit_code(client, job.id, worker_timeout))


def job_values(
    *,
    lang: str | None,
    corpora: tuple[str, ...],
    test_corpus: str | None,
    guards: tuple[str, ...],
    text: str | None,
    maps: tuple[str, ...],
    allow_script: bool,
    allow_leakage: bool,
    base_model: str | None,
    start: str | None,
    spec_path: Path | None,
    trackers: tuple[str, ...],
) -> dict[str, object]:
    """The settings that the options of `submit` and its file state. Raises UsageError."""
    from lorajob.spec_yaml import merge

    flags = {"language": lang, "base_model": base_model}
    values = read_spec(spec_path) | {name: value for name, value in flags.items() if value}
    values = merge(values, corpus_values(corpora, test_corpus, maps))
    values = merge(values, guard_values(guards))
    values = merge(values, {"evaluate": {"text": text}} if text else {})
    values |= tracker_values(trackers)
    allowed = {"allow_script": allow_script, "allow_leakage": allow_leakage}
    given = {name: True for name, flag in allowed.items() if flag}
    values = merge(values, {"preprocess": given} if given else {})
    values = merge(values, {"start": {"job": start}} if start else {})
    return values


def tell_twin(client: "Client", job: "Job", spec: "JobSpec") -> None:
    """Say if a job with the same settings was submitted within the last day.

    The job is queued already, so an error is only logged.
    """
    from lorajob.tasks.words import duration, state_of_work

    try:
        twin = client.twin(job, spec)
        record = None if twin is None else twin.record
    except LorajobError as error:
        log.debug("no twin of %s: %s", job.id, error)
        return
    if twin is not None and record is not None:
        age = duration(time.time() - record.created_at)
        click.echo(
            f"lorajob: {twin.id} has the same settings, was submitted {age} ago and is "
            f"{state_of_work(record)}; {job.id} is queued nevertheless",
            err=True,
        )
