"""`lorajob status`."""

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import check_job_id, is_batch, load_record
from lorajob.cli.service import open_pipeline

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Pipeline
    from lorajob.worker.records.record import JobRecord


@click.command()
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="For scripts: one object, or a list of them.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Without JOB: show the newest so many.",
)
def status(job: str | None, as_json: bool, limit: int) -> None:
    """Show the newest jobs in a table, or JOB (or BATCH) in full.

    \b
    The object of --json holds, among others:
      state      queued, running, succeeded, failed, cancelled, rejected
      waits_for  a worker that is not there, or its turn, in words; null
                 while a stage runs and once the job has ended
      stages     preprocess, train, evaluate, convert, each with its state
      attempts   those that are over: stage, worker, last step, and why each ended
      artifacts  the job's folder
      metrics    base, tuned, converted: wer and cer in percent, normalised,
                 on the test clips; each absent until measured
      error      one sentence, null unless the job failed

    For a BATCH it holds `jobs`, one such object each, and `state` and `states` of the whole.

    Where Redis cannot be reached, JOB's job.json answers, if it is to be found here.
    """
    if job is None:
        pipeline = open_pipeline()
        show_jobs(pipeline, pipeline.newest(limit), as_json)
        if unknown := pipeline.unknown():
            click.echo(
                f"lorajob: Redis knows nothing of {len(unknown)} jobs here, such as {unknown[0]}; "
                "`lorajob rebuild` restores them from their files",
                err=True,
            )
    elif is_batch(job):
        from lorajob.cli.batch_views import show_batch

        show_batch(open_pipeline(), check_job_id(job), as_json)
    else:
        show_job(open_pipeline(), load_record(job), as_json)


def show_jobs(pipeline: "Pipeline", records: "list[JobRecord]", as_json: bool) -> None:
    """Print a table of jobs, or a list of their descriptions."""
    from lorajob.tasks.jobs import waits

    waiting = waits(pipeline, records)
    if as_json:
        from lorajob.tasks.describe import describe

        jobs = [describe(record, waiting.get(record.id)) for record in records]
        click.echo(json.dumps(jobs, ensure_ascii=False, indent=2))
    elif records:
        from lorajob.cli.format import console
        from lorajob.cli.tables import jobs_table

        screen = console(sys.stdout)
        screen.print(jobs_table(records, waiting, time.time(), screen.width))
    else:
        click.echo("lorajob: no jobs yet; `lorajob submit --lang hi` queues one", err=True)


def show_job(pipeline: "Pipeline", record: "JobRecord", as_json: bool) -> None:
    """Print all that is known of one job."""
    from lorajob.tasks.jobs import waits

    wait = waits(pipeline, [record]).get(record.id)
    if as_json:
        from lorajob.tasks.describe import describe

        click.echo(json.dumps(describe(record, wait), ensure_ascii=False, indent=2))
        return
    from lorajob.cli.format import (
        attempts_table,
        console,
        duration,
        metrics_table,
        stages_table,
        state_of_work,
    )
    from lorajob.storage.urls import public

    now = time.time()
    for name, value in (
        ("job", record.id),
        ("state", state_of_work(record)),
        ("language", record.language),
        ("batch", record.batch),
        ("priority", record.priority if record.priority != "normal" else None),
        ("waits for", wait),
        ("base model", record.base_model),
        ("corpus", public(record.corpus)),
        ("submitted", f"{duration(now - record.created_at)} ago"),
        ("artifacts", record.folder),
        ("error", record.error),
    ):
        if value:
            click.echo(f"{name:11}{value}")
    for table in (stages_table(record, now), attempts_table(record), metrics_table(record)):
        if table is not None:
            click.echo()
            console(sys.stdout).print(table)
