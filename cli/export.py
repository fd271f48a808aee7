"""`lorajob export`: a job's model in the forms of other tools, with a card, at its destination."""

import os
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import JOB, job_of
from lorajob.cores import share_cpu
from lorajob.errors import UsageError
from lorajob.logs import quiet_libraries

if TYPE_CHECKING:
    from lorajob.bundle.destination import Destination


@click.command()
@click.argument("job", type=JOB)
@click.argument("dest")
@click.option(
    "--what",
    default="adapter,merged,ctranslate2,ggml",
    show_default=True,
    help="Forms, comma-separated: adapter (PEFT), merged (transformers), ctranslate2 "
    "(faster-whisper), ggml (whisper.cpp).",
)
@click.option(
    "--license",
    help="Identifier of the model's licence, such as apache-2.0. Required for the Hub.",
)
@click.option(
    "--base-model",
    metavar="OWNER/NAME",
    help="Name of the base model on the Hub, if the job took it from a folder.",
)
@click.option("--base-revision", metavar="COMMIT", help="The commit of --base-model.")
@click.option(
    "--check",
    metavar="CLIPS",
    type=click.IntRange(min=1),
    help="Run the card's example of each library on so many test clips, and state in the card what "
    "each scores. Takes seconds a clip on a CPU.",
)
@click.option("--private", is_flag=True, help="Make the new repository on the Hub private.")
@click.option(
    "--force",
    is_flag=True,
    help="Replace an existing DEST, and publish a model whose gate failed.",
)
def export(
    job: str,
    dest: str,
    what: str,
    license: str | None,
    base_model: str | None,
    base_revision: str | None,
    check: int | None,
    private: bool,
    force: bool,
) -> None:
    """Write the model of JOB with a model card to DEST.

    DEST is a folder, a .tar or .tar.gz, s3://BUCKET/PATH, or hf:OWNER/NAME for a repository of the
    Hugging Face Hub (HF_TOKEN needs write access). Prints the path or URL. If the export fails,
    DEST does not change.

    \b
    lorajob export JOB my-model --license apache-2.0
    lorajob export JOB hf:me/whisper-hindi --license cc-by-4.0 --what adapter,ctranslate2
    """
    # Must come before torch is loaded.
    share_cpu(os.environ)
    from lorajob.bundle.layout import needed_files, parse_forms
    from lorajob.client.models import say

    forms = parse_forms(what)
    place = open_destination(dest, license, base_model, base_revision, private)
    files = job_of(job).files(*needed_files(check))
    with quiet_libraries(everything=True), files as folder:
        from lorajob.bundle.make import make_bundle, notes, plan_bundle

        base = base_model, base_revision
        facts, order = plan_bundle(folder, forms, license, base, place.repo, force, check or 0)
        place.check(force)
        with place.scratch() as scratch:
            make_bundle(folder, scratch, facts, order, say)
            say(f"writing {dest}")
            shown = place.put(scratch, force)
    for note in notes(facts, order):
        say(note)
    click.echo(shown)


def open_destination(
    dest: str,
    license: str | None,
    base_model: str | None,
    base_revision: str | None,
    private: bool,
) -> "Destination":
    """Where the bundle goes. Raises UsageError for options that do not fit it."""
    from lorajob.bundle.destination import HubPlace, find_destination

    place = find_destination(dest)
    if base_revision is not None and base_model is None:
        raise UsageError("--base-revision: needs --base-model")
    if isinstance(place, HubPlace):
        place.private = private
        if license is None:
            raise UsageError(
                "--license: the Hub needs the licence of the model, such as --license apache-2.0"
            )
    elif private:
        raise UsageError("--private: is for hf:OWNER/NAME")
    return place
