"""`lorajob watch`, and what `submit --wait` does after it has queued a job."""

import sys
import time
from typing import TYPE_CHECKING, TextIO

import click

from lorajob.cli.context import check_job_id, is_batch, load_record
from lorajob.cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, say_error
from lorajob.cli.progress_bars import open_view
from lorajob.cli.service import open_pipeline
from lorajob.cli.waiting import WorkerWatch
from lorajob.errors import ServiceError

if TYPE_CHECKING:
    from lorajob.cli.progress_bars import View
    from lorajob.tasks.jobs import Pipeline
    from lorajob.worker.records.record import JobRecord

POLL_SECONDS = 0.5
OUTAGE_SECONDS = 600  # for so long a Redis that went away may come back while we watch


@click.command()
@click.argument("job")
@click.pass_context
def watch(ctx: click.Context, job: str) -> None:
    """Follow the progress of JOB (or BATCH) until it ends; Ctrl-C ends only the watching.

    Progress goes to standard error, the table of error rates at the end to standard output.
    The exit code is 0 where the job succeeded and 1 where it failed or was cancelled.
    """
    if is_batch(job):
        from lorajob.cli.batch_views import follow_batch

        ctx.exit(follow_batch(open_pipeline(), check_job_id(job)))
    ctx.exit(follow_to_exit_code(open_pipeline(), job, out=sys.stdout))


def follow_to_exit_code(
    pipeline: "Pipeline",
    job_id: str,
    worker_timeout: float | None = None,
    out: TextIO | None = None,
) -> int:
    """Follow a job to its end and say how it ended; the table goes to `out`, else stderr.

    Raises ServiceError where Redis stays away, or where the job was withdrawn because no worker
    came within `worker_timeout` seconds.
    """
    try:
        record = follow(pipeline, job_id, WorkerWatch(pipeline, worker_timeout))
    except KeyboardInterrupt:
        click.echo(
            f"\nlorajob: {job_id} goes on; `lorajob watch {job_id}` follows it again, "
            f"`lorajob cancel {job_id}` stops it",
            err=True,
        )
        return EXIT_INTERRUPTED
    show_end(record, out or sys.stderr)
    return 0 if record.state == "succeeded" else EXIT_FAILED


def follow(pipeline: "Pipeline", job_id: str, workers: WorkerWatch) -> "JobRecord":
    """Show a job's progress on standard error until it has ended."""
    record = load_record(job_id)
    with open_view(sys.stderr, record) as view:
        while True:
            view.update(record)
            if record.over:
                return record
            workers.check(record, view.note)
            time.sleep(POLL_SECONDS)
            record = _load_through_outage(pipeline, job_id, view)


def show_end(record: "JobRecord", out: TextIO) -> None:
    """The table base -> tuned -> converted, where it is known, and what became of the job."""
    from lorajob.cli.format import console, metrics_table

    table = metrics_table(record)
    if table is not None:
        console(out).print(table)
    if record.state == "succeeded":
        click.echo(f"lorajob: {record.id} succeeded; its files: {record.folder}", err=True)
    else:
        reason = f": {record.error}" if record.error else ""
        say_error(f"{record.id} {record.state}{reason}; `lorajob logs {record.id}` tells more")


def _load_through_outage(pipeline: "Pipeline", job_id: str, view: "View") -> "JobRecord":
    """The record, waiting for a Redis that is away for a while. Raises ServiceError at last."""
    deadline = time.monotonic() + OUTAGE_SECONDS
    noted = False
    while True:
        try:
            return pipeline.load(job_id, mirrored=False)  # job.json would stand still
        except ServiceError as error:
            if time.monotonic() > deadline:
                raise
            if not noted:
                view.note(f"lorajob: {error}; the job may go on, waiting for Redis")
                noted = True
            time.sleep(POLL_SECONDS)
