"""A batch as a table with a bar a language, once or again and again."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import click

from lorajob.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED
from lorajob.errors import ServiceError

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Pipeline
    from lorajob.worker.records.batches import Batch
    from lorajob.worker.records.record import JobRecord

POLL_SECONDS = 1.0
OUTAGE_SECONDS = 600
SUBMISSION_SECONDS = 60  # without another job, until a submission counts as cut short
LONGEST_SUBMISSION_SECONDS = 600


def show_batch(pipeline: "Pipeline", batch_id: str, as_json: bool) -> None:
    """Print what is known of a batch and its jobs."""
    from lorajob.cli.format import console
    from lorajob.cli.tables import batch_table
    from lorajob.tasks.batches import load_batch
    from lorajob.tasks.describe import describe_batch
    from lorajob.tasks.jobs import waits

    batch, records = load_batch(pipeline, batch_id)
    waiting = waits(pipeline, records)
    if as_json:
        described = describe_batch(batch, records, waiting)
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return
    click.echo(summary(batch, records))
    screen = console(sys.stdout)
    screen.print(batch_table(records, waiting, screen.width))
    _errors(records, sys.stdout)


def summary(batch: "Batch", records: "Sequence[JobRecord]") -> str:
    """`batch-1a2b3c4d: running; 12 jobs: 3 succeeded, 1 failed, 8 queued`."""
    from lorajob.cli.format import state_of_work
    from lorajob.tasks.describe import state_of

    states = Counter(state_of_work(record) for record in records)
    parts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    unknown = len(batch.jobs) - len(records)
    if unknown:  # a submission is under way, or was cut short
        parts += f"; {unknown} never queued; the same batch submitted again is completed"
    return f"{batch.id}: {state_of(records, unknown)}; {len(records)} jobs: {parts}"


def follow_batch(pipeline: "Pipeline", batch_id: str) -> int:
    """Show a batch until all of it has ended; 0 where every job succeeded."""
    from lorajob.tasks.batches import load_batch
    from lorajob.tasks.describe import state_of

    load_batch(pipeline, batch_id)  # unknown: said before anything is drawn
    try:
        _follow(pipeline, batch_id, sys.stderr)
    except KeyboardInterrupt:
        click.echo(
            f"\nlorajob: {batch_id} goes on; `lorajob watch {batch_id}` follows it again", err=True
        )
        return EXIT_INTERRUPTED
    show_batch(pipeline, batch_id, as_json=False)
    batch, records = load_batch(pipeline, batch_id)
    state = state_of(records, len(batch.jobs) - len(records))
    return 0 if state == "succeeded" else EXIT_FAILED


def _follow(pipeline: "Pipeline", batch_id: str, stream: TextIO) -> None:
    from rich.live import Live

    from lorajob.cli.format import console
    from lorajob.cli.tables import batch_table
    from lorajob.tasks.batches import load_batch
    from lorajob.tasks.jobs import waits

    told: dict[str, str] = {}
    screen = console(stream)
    live = Live(console=screen, auto_refresh=False) if stream.isatty() else None
    deadline = time.monotonic() + OUTAGE_SECONDS
    count, since = -1, 0.0  # of jobs that are queued yet, and since when there are so many
    if live is not None:
        live.start()
    try:
        while True:
            try:
                batch, records = load_batch(pipeline, batch_id)
                deadline = time.monotonic() + OUTAGE_SECONDS
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            if live is not None:
                waiting = waits(pipeline, records)
                live.update(batch_table(records, waiting, screen.width), refresh=True)
            else:
                _tell_changes(records, told, stream)
            if len(records) != count:
                count, since = len(records), time.monotonic()
            recent = time.time() - batch.created_at < LONGEST_SUBMISSION_SECONDS
            grows = recent and time.monotonic() - since < SUBMISSION_SECONDS
            whole = count == len(batch.jobs) or not grows
            if whole and all(record.over for record in records):
                return
            time.sleep(POLL_SECONDS)
    finally:
        if live is not None:
            live.stop()


def _tell_changes(records: "Sequence[JobRecord]", told: dict[str, str], stream: TextIO) -> None:
    """A line a job whose state or stage is another than before."""
    from lorajob.cli.format import current_stage, state_of_work

    for record in records:
        stage, _ = current_stage(record)
        now = record.state if record.over else f"{state_of_work(record)} {stage}"
        if told.get(record.id) != now:
            told[record.id] = now
            print(f"{record.id}: {now}", file=stream, flush=True)


def _errors(records: "Sequence[JobRecord]", stream: TextIO) -> None:
    for record in records:
        if record.error:
            print(f"{record.id} {record.state}: {record.error}", file=stream)
