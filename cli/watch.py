"""`lorajob watch`, and how `submit --wait` follows the job that it has queued."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

import click

from lorajob.cli.context import JOB, is_batch, open_client
from lorajob.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, say_error
from lorajob.cli.jobs import show_batch
from lorajob.errors import ServiceError, UsageError

if TYPE_CHECKING:
    from lorajob.cli.progress_bars import View
    from lorajob.client.batch import Batch
    from lorajob.client.job import Job
    from lorajob.client.service import Client
    from lorajob.worker.records.record import JobRecord

CHECK_SECONDS = 5.0  # between two looks at the workers

OUTAGE_SECONDS = 600  # watching a batch ends if Redis stays unavailable for so long

BATCH_POLL_SECONDS = 1.0
# A batch's submission counts as interrupted after so long without a new job, or in all.
SUBMISSION_SECONDS = 60
LONGEST_SUBMISSION_SECONDS = 600


class WorkerWatch:
    """While `submit --wait` follows a job: notes once for each queue that it has no worker.

    After `timeout` seconds without a worker it cancels the job.
    """

    def __init__(self, client: "Client", timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout
        self._next_check = 0.0
        self._missing_since: float | None = None
        self._noted: set[str] = set()

    def check(self, record: "JobRecord", note: Callable[[str], None]) -> None:
        """Look at the workers every few seconds. Raises ServiceError after it cancelled the job."""
        from lorajob.tasks.describe import awaited_queue

        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_SECONDS
        queue = awaited_queue(record)
        if queue is None or self._served(queue):
            self._missing_since = None
            return
        self._missing_since = self._missing_since or now
        if queue not in self._noted:
            self._noted.add(queue)
            note(f"lorajob: no worker runs for the queue {queue}; {_advice(queue)}; the job waits")
        if self._timeout is not None:
            self._cancel_or_hurry(record.id, queue, self._timeout)

    def _served(self, queue: str) -> bool:
        try:
            return self._client.workers(queue) > 0
        except ServiceError:
            # While Redis is unavailable, nothing is known about the workers.
            return True

    def _cancel_or_hurry(self, job_id: str, queue: str, timeout: float) -> None:
        now = time.monotonic()
        left = (self._missing_since or now) + timeout - now
        if left > 0:
            self._next_check = min(self._next_check, now + left)
            return
        try:
            self._client.job_of(job_id).cancel()
        except UsageError:
            # The job ended just now. The next look at its record shows how.
            return
        raise ServiceError(
            f"{job_id}: cancelled, because no worker ran for the queue {queue} in {timeout:g} s; "
            f"{_advice(queue)}"
        )


def _advice(queue: str) -> str:
    return f"start one with `lorajob worker --queue {queue[:3]}` or `lorajob up`"


@click.command()
@click.argument("job", type=JOB)
@click.pass_context
def watch(ctx: click.Context, job: str) -> None:
    """Follow the progress of JOB (or BATCH) until it ends.

    Ctrl-C only stops watching; the job continues. Progress goes to standard error. At the end the
    table of error rates goes to standard output. The exit code is 0 if the job succeeded, and 1 if
    it failed or was cancelled.
    """
    if is_batch(job):
        ctx.exit(follow_batch(open_client().batch(job)))
    ctx.exit(follow_to_exit_code(open_client(), job, out=sys.stdout))


def follow_to_exit_code(
    client: "Client",
    job_id: str,
    worker_timeout: float | None = None,
    out: TextIO | None = None,
) -> int:
    """Follow a job to its end and return the exit code. The table goes to `out`, else to stderr.

    Raises ServiceError if Redis stays unavailable, or if the job was cancelled because no worker
    took jobs from its queue within `worker_timeout` seconds.
    """
    try:
        record = follow(client.job_of(job_id), WorkerWatch(client, worker_timeout))
    except KeyboardInterrupt:
        click.echo(
            f"\nlorajob: {job_id} continues; `lorajob watch {job_id}` follows it again, "
            f"`lorajob cancel {job_id}` stops it",
            err=True,
        )
        return EXIT_INTERRUPTED
    show_end(record, out or sys.stderr)
    return 0 if record.state == "succeeded" else EXIT_FAILED


def follow(job: "Job", workers: WorkerWatch) -> "JobRecord":
    """Show a job's progress on standard error until it has ended."""
    from lorajob.cli.progress_bars import open_view

    first = record = job.load()
    told = len(first.ended)
    with open_view(sys.stderr, first) as view:
        for record in job.follow(lambda text: view.note(f"lorajob: {text}"), first):
            view.update(record)
            if not record.over:
                told = _note_failures(record, told, view)
                workers.check(record, view.note)
    return record


def _note_failures(record: "JobRecord", told: int, view: "View") -> int:
    """Note each attempt that failed since `told` of them had ended, and is made again."""
    for entry in record.ended[told:]:
        if entry.kind is not None:
            view.note(f"lorajob: {entry.stage} is tried again; on {entry.worker}: {entry.why}")
    return len(record.ended)


def show_end(record: "JobRecord", out: TextIO) -> None:
    """Print the table of error rates, if they are known, and how the job ended."""
    from lorajob.cli.format import console, metrics_table, rate_notes

    table = metrics_table(record)
    if table is not None:
        console(out).print(table)
    for line in rate_notes(record):
        click.echo(line, file=out)
    if record.state == "succeeded":
        click.echo(f"lorajob: {record.id} succeeded; its files: {record.folder}", err=True)
    else:
        reason = f": {record.error}" if record.error else ""
        say_error(f"{record.id} {record.state}{reason}; see `lorajob logs {record.id}`")


def follow_batch(batch: "Batch") -> int:
    """Show a batch until all its jobs have ended. Returns 0 if every job succeeded."""
    try:
        _follow_batch(batch, sys.stderr)
    except KeyboardInterrupt:
        click.echo(
            f"\nlorajob: {batch.id} continues; `lorajob watch {batch.id}` follows it again",
            err=True,
        )
        return EXIT_INTERRUPTED
    show_batch(batch, as_json=False)
    return 0 if batch.state == "succeeded" else EXIT_FAILED


def _follow_batch(batch: "Batch", stream: TextIO) -> None:
    from rich.live import Live

    from lorajob.cli.format import console
    from lorajob.cli.tables import batch_table

    told: dict[str, str] = {}
    screen = console(stream)
    live = Live(console=screen, auto_refresh=False) if stream.isatty() else None
    deadline = time.monotonic() + OUTAGE_SECONDS
    # How many jobs have been queued, and when the last of them came.
    count, since = -1, 0.0
    if live is not None:
        live.start()
    try:
        while True:
            try:
                found, listing = batch.read()
                deadline = time.monotonic() + OUTAGE_SECONDS
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(BATCH_POLL_SECONDS)
                continue
            records = listing.records
            if live is not None:
                live.update(batch_table(records, listing.waits, screen.width), refresh=True)
            else:
                _tell_changes(records, told, stream)
            if len(records) != count:
                count, since = len(records), time.monotonic()
            recent = time.time() - found.created_at < LONGEST_SUBMISSION_SECONDS
            grows = recent and time.monotonic() - since < SUBMISSION_SECONDS
            whole = count == len(found.jobs) or not grows
            if whole and all(record.over for record in records):
                return
            time.sleep(BATCH_POLL_SECONDS)
    finally:
        if live is not None:
            live.stop()


def _tell_changes(records: "Sequence[JobRecord]", told: dict[str, str], stream: TextIO) -> None:
    """Print a line for each job whose state or stage has changed."""
    from lorajob.tasks.words import current_stage, state_of_work

    for record in records:
        stage, _ = current_stage(record)
        now = record.state if record.over else f"{state_of_work(record)} {stage}"
        if told.get(record.id) != now:
            told[record.id] = now
            print(f"{record.id}: {now}", file=stream, flush=True)
