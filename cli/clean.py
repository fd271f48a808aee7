"""`lorajob clean` and `lorajob status --disk`: what is on this machine's disk."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorajob.cli.context import load_settings, open_jobs

if TYPE_CHECKING:
    from lorajob.tasks.disk import DiskItem, Kind

MADE_AGAIN: tuple["Kind", ...] = ("cache", "corpora", "models")
KINDS: tuple["Kind", ...] = (*MADE_AGAIN, "uploads")


@click.command("clean")
@click.argument("what", nargs=-1, type=click.Choice(KINDS))
@click.option(
    "--yes", is_flag=True, help="Delete the files. Without --yes, only print their sizes."
)
def clean_command(what: tuple["Kind", ...], yes: bool) -> None:
    """Delete what lorajob can make or fetch again on this machine.

    \b
    WHAT is one or more of these; without it, the first three:
      cache    preprocessed corpora and transcripts of base models
      corpora  corpora that were downloaded from a url
      models   base models that lorajob converted, completed or fetched
      uploads  corpora that other machines sent and no job names, a day after they came

    Jobs are kept; `lorajob rm` and `lorajob prune` delete them. The models in the Hub's own cache
    are kept, because other tools use it. `lorajob status --disk` shows all sizes.
    """
    from lorajob.tasks.disk import disk_items, free_disk, unused_bytes

    kinds = [kind for kind in KINDS if kind in (what or MADE_AGAIN)]
    if not yes:
        items = {item.what: item for item in disk_items(load_settings())}
        sizes = {what: item.alone for what, item in items.items()}
        found = {what for what, item in items.items() if item.bytes}
        if "uploads" in kinds:
            sizes["uploads"] = unused_bytes(open_jobs())
            found -= set() if sizes["uploads"] else {"uploads"}
        for kind in kinds:
            click.echo(f"{kind:8}{size_words(sizes.get(kind, 0)):>10}")
        word = "--yes deletes it" if found.intersection(kinds) else "there is nothing to delete"
        click.echo(f"lorajob: nothing is deleted; {word}", err=True)
        return
    for kind, freed in free_disk(open_jobs(), kinds):
        click.echo(f"{kind:8}{size_words(freed):>10} freed")


def show_disk(as_json: bool) -> None:
    """Print lorajob's folders on this machine with their sizes, and the free space."""
    from lorajob.tasks.disk import disk_items, free_bytes

    settings = load_settings()
    _print_disk(disk_items(settings), settings.home, free_bytes(settings.home), as_json)


def show_far_disk(found: Any, as_json: bool) -> None:
    """The same for the machine of a service, of the answer of its /api/disk."""
    from lorajob.tasks.disk import DiskItem

    items = [
        DiskItem(it["what"], Path(it["path"]), it["bytes"], it["alone_bytes"], it["removed_by"])
        for it in found["items"]
    ]
    _print_disk(items, Path(found["home"]), found["free_bytes"], as_json)


def _print_disk(items: "Sequence[DiskItem]", home: Path, free: int, as_json: bool) -> None:
    """Print folders with their sizes, and the free space on the disk of `home`."""
    if as_json:
        said = [
            {"what": it.what, "path": str(it.path), "bytes": it.bytes, "alone_bytes": it.alone}
            for it in items
        ]
        click.echo(json.dumps({"items": said, "free_bytes": free}, ensure_ascii=False, indent=2))
        return
    from rich.markup import escape

    from lorajob.cli.format import console, plain_table

    table = plain_table("WHAT", "SIZE", "ALONE", "DELETED BY", "WHERE")
    for it in items:
        sizes = size_words(it.bytes), size_words(it.alone)
        table.add_row(it.what, *sizes, escape(it.removed_by), escape(str(it.path)))
    table.columns[-1].no_wrap = False
    table.columns[-1].overflow = "fold"
    console(sys.stdout).print(table)
    click.echo(f"free on the disk of {home}: {size_words(free)}")
    click.echo("ALONE: without files that jobs and the cache share")


def size_words(count: int) -> str:
    """`0 MB`, `12 MB`, `3.4 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
