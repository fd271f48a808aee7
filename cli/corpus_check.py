"""`lorajob corpus check`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lorajob.cli.spec_options import MAPS, corpus_values

if TYPE_CHECKING:
    from lorajob.spec import JobSpec

SECONDS_BETWEEN_LINES = 1.0


@click.command(
    epilog="""\b
Examples:
  lorajob corpus check cv-corpus-23.0-2025-09-05-hi.tar.gz --lang hi
  lorajob corpus check recordings/ --lang Hindi --quick --json
  lorajob corpus check recordings/ --lang hi --html check.html --fix clean/
"""
)
@click.argument("source", metavar="CORPUS")
@click.option("--lang", required=True, metavar="LANGUAGE", help="Code or name of the language.")
@click.option(
    "--test-corpus", metavar="CORPUS", help="Corpus of the test clips, if it is not CORPUS."
)
@MAPS
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting of the job, such as preprocess.test_split=dev. May be repeated.",
)
@click.option("--base-model", metavar="MODEL", help="Base model whose tokenizer counts tokens.")
@click.option(
    "--quick", is_flag=True, help="Read only tables and the headers of audio; decode nothing."
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report to this file as a page, with the sound of examples.",
)
@click.option(
    "--fix",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write the corpus without faulty clips to OUT: a folder, a .parquet or a .jsonl file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(
    source: str,
    lang: str,
    test_corpus: str | None,
    maps: tuple[str, ...],
    sets: tuple[str, ...],
    base_model: str | None,
    quick: bool,
    html: Path | None,
    fix: Path | None,
    as_json: bool,
) -> None:
    """Check CORPUS before a job trains on it.

    Prints hours, clips, speakers and vocabulary of each split, and what is wrong with clips: the
    same recording in train and test, duplicates, texts that do not fit their sound, noise,
    clipping, silence, telephone bandwidth, texts in another script, digits, symbols, Unicode forms,
    and every clip that a job would drop, with the reason.

    CORPUS is what `lorajob submit --corpus` takes. The exit code is 1 if there is an error: one
    recording in train and test, a corpus in another script, or no clip left. The report says which
    clips --fix leaves out. docs/corpora.md describes the findings and the fields of --json.
    """
    from lorajob.checking.clean import write_clean
    from lorajob.checking.run import Plan, check_clips
    from lorajob.checking.table import open_table
    from lorajob.checking.tokens import token_counter
    from lorajob.checking.words import report_lines
    from lorajob.corpora import local_copy
    from lorajob.corpora.export import check_free
    from lorajob.corpora.selection import open_sources
    from lorajob.languages import find_language

    if fix:
        check_free(fix)
    spec = _spec(source, lang, test_corpus, maps, sets, base_model)
    language = find_language(spec.language)
    corpus = open_sources(spec, [local_copy(place) for place in spec.places], language.code)
    plan = Plan(spec, corpus, token_counter(spec.base_model, language), quick)
    with open_table() as table:
        report = check_clips(plan, table, _Progress())
        written = write_clean(plan, table, fix) if fix else None
    if html:
        from lorajob.checking.page import write_check_page

        write_check_page(report, plan, html)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        for line in report_lines(report):
            click.echo(line)
    if written:
        click.echo(f"{written.clips:,} clips are in {fix}", err=True)
        for reason, count in sorted(written.left_out.items()):
            click.echo(f"left out: {count:,} {reason}", err=True)
    if report.errors:
        click.get_current_context().exit(1)


def _spec(
    source: str,
    lang: str,
    test_corpus: str | None,
    maps: tuple[str, ...],
    sets: tuple[str, ...],
    base_model: str | None,
) -> "JobSpec":
    """The settings of a job that would read this corpus. Raises UsageError."""
    from lorajob.client.requests import check_base_model
    from lorajob.spec import build_spec

    # A weight such as CORPUS=0.3 does not change what is checked.
    values = corpus_values((), test_corpus, maps) | {"language": lang, "corpus": source}
    if base_model:
        check_base_model(base_model)
        values["base_model"] = base_model
    return build_spec(values, sets=sets)


class _Progress:
    """Prints how many clips are done, on a terminal."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and (now - self._last > SECONDS_BETWEEN_LINES or done == total):
            self._last = now
            click.echo(f"\r{done:,} of {total:,} clips", err=True, nl=done == total)
