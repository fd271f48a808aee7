"""`lorajob corpus`: commands about corpora."""

from pathlib import Path

import click

from lorajob.cli.context import open_client
from lorajob.cli.corpus_check import check
from lorajob.cli.spec_options import MAPS, corpus_values
from lorajob.errors import UsageError


@click.group()
def corpus() -> None:
    """Check or convert a corpus, or send one to a service."""


corpus.add_command(check)


@corpus.command(
    short_help="Write a corpus as a manifest or a Parquet file.",
    epilog="""\b
Examples:
  lorajob corpus convert recordings/ clean/ --lang hi
  lorajob corpus convert cv-corpus-23.0-2025-09-05-hi.tar.gz hi.parquet --lang hi
  lorajob corpus convert 'hf:google/fleurs?config=hi_in' fleurs/ --lang hi
""",
)
@click.argument("source", metavar="CORPUS")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--lang", required=True, metavar="LANGUAGE", help="Code or name of the language.")
@MAPS
def convert(source: str, out: Path, lang: str, maps: tuple[str, ...]) -> None:
    """Write all clips of CORPUS to OUT: a folder with a manifest, or a .parquet or .jsonl file.

    CORPUS is what `lorajob submit --corpus` takes. Texts and audio do not change. If a clip is a
    part of a recording, a manifest gives its start and end, and Parquet holds the part as FLAC. A
    .jsonl file is only a manifest, which refers to the existing audio files. Clips without audio
    and rows that cannot be read are left out, and counted on standard error.
    """
    from lorajob.corpora import local_copy, open_corpus
    from lorajob.corpora.export import export_corpus
    from lorajob.languages import find_language
    from lorajob.spec import parse_spec
    from lorajob.storage.urls import public

    language = find_language(lang).code
    values = corpus_values((), None, maps)
    # The settings of a job say which roles there are.
    columns = parse_spec({"language": language, "corpus": source} | values).preprocess.columns
    found = open_corpus(local_copy(source), language, columns=columns)
    written = export_corpus(found, out)
    click.echo(f"{public(source)}: {written.clips:,} clips are in {out}", err=True)
    for reason, count in sorted(written.left_out.items()):
        click.echo(f"left out: {count:,} {reason}", err=True)


@corpus.command(
    short_help="Send a corpus to the service of LORAJOB_URL.",
    epilog="""\b
Example:
  corpus=$(lorajob corpus upload cv-corpus-23.0-2025-09-05-hi.tar.gz --lang hi)
  lorajob submit --lang hi --corpus "$corpus"
""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--lang", metavar="LANGUAGE", help="First check that FILE is a corpus in this language."
)
@MAPS
def upload(file: Path, lang: str | None, maps: tuple[str, ...]) -> None:
    """Send FILE to the service of LORAJOB_URL, and print its path there.

    FILE is a corpus in one file: .tar.gz, .tgz, .tar, .zip or .parquet. A corpus that the service
    has already is not sent again. An upload that was cut off goes on where it was. `lorajob submit
    --corpus FILE` sends it, too. `lorajob prune --older AGE` also deletes corpora that no job
    names, a day after they came.
    """
    from lorajob.client.remote import RemoteClient

    client = open_client()
    if not isinstance(client, RemoteClient):
        raise UsageError(
            "LORAJOB_URL: is not set, so FILE is not sent; beside the service, give its path to "
            "`lorajob submit --corpus`"
        )
    if lang is not None:
        from lorajob.corpora import check_corpus
        from lorajob.languages import find_language
        from lorajob.spec import parse_spec

        language = find_language(lang).code
        values = {"language": language, "corpus": str(file)} | corpus_values((), None, maps)
        check_corpus(file, language, parse_spec(values).preprocess.columns)
    click.echo(client.upload_corpus(file))
