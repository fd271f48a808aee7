"""`lorajob status`, `cancel` and `retry`: the commands on existing jobs."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import click

from lorajob.cli.context import JOB, is_batch, load_settings, open_client
from lorajob.cli.errors import say_error
from lorajob.errors import UsageError
from lorajob.job.states import JOB_STATES
from lorajob.visible import visible

if TYPE_CHECKING:
    from lorajob.client.batch import Batch, ChangedJobs
    from lorajob.client.models import ListedJobs
    from lorajob.client.service import Client
    from lorajob.tasks.listing import Sort
    from lorajob.worker.records.batches import JobBatch
    from lorajob.worker.records.record import JobRecord

SORTS = ("newest", "oldest", "wer", "before", "cost", "name", "language", "state")


@click.command()
@click.argument("job", type=JOB, required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: one object for JOB, else a list."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Without JOB: maximum number of jobs to show.",
)
@click.option("--lang", metavar="LANGUAGE,...", help="Only jobs of these languages.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(JOB_STATES),
    help="Only jobs in this state.",
)
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="Only jobs with this tag."
)
@click.option("--since", metavar="AGE", help="Only jobs submitted since 12h, 2d, 8w or 2026-11-30.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="newest",
    show_default=True,
    help="wer, before: the lowest error rate of the tuned or the base model first, of words or "
    "characters by the job's language; cost: the longest run time of the stages first.",
)
@click.option(
    "--disk",
    is_flag=True,
    help="Show lorajob's folders on this machine, their sizes, and what deletes them.",
)
def status(
    job: str | None,
    as_json: bool,
    limit: int,
    lang: str | None,
    states: tuple[str, ...],
    tags: tuple[str, ...],
    since: str | None,
    sort: "Sort",
    disk: bool,
) -> None:
    """Show the newest jobs in a table, or JOB (or BATCH) in full.

    JOB is a job's id, the beginning of its id, its name, or @last for your newest job. Other
    commands take the same.

    \b
    Some fields of the --json object:
      state      queued, running, succeeded, failed, cancelled, rejected
      waits_for  a sentence that says what the job waits for, such as a free
                 worker; null if a stage runs or the job ended
      stages     preprocess, train, evaluate, convert, each with its state
      attempts   ended attempts: stage, worker, last step, why each ended
      artifacts  the job's folder
      metrics    base, delivered, tuned: wer and cer in percent, normalised,
                 wer_interval (95 %; null for a single clip, and for jobs of
                 versions that had none), clips; a model that has not been
                 measured yet is left out; converted equals delivered and is
                 deprecated
      glossary   metrics with evaluate.glossary, and counts of its terms, if it is set
      unshared   metrics on the test clips of new speakers or sentences, if
                 others share theirs with training
      notes      sentences about the metrics, such as the number of clips
      error      one sentence; null unless the job failed
      base_sha256, base_commit
                 hash and commit of the base model; absent until known

    For a BATCH the object has `state` and `states` of the whole batch, and `jobs`: one such object
    for each job.

    If Redis is unavailable, JOB is read from its job.json, if this machine has access to it.
    """
    from lorajob.tasks.listing import parse_filter

    if disk:
        from lorajob.cli.clean import show_disk

        if job is not None:
            raise UsageError("JOB: --disk is for this machine, not for one job")
        show_disk(as_json)
        return
    wanted = parse_filter(lang, states, tags, since)
    if job is not None and not (wanted.everything and sort == "newest"):
        raise UsageError("JOB: --lang, --state, --tag, --since and --sort are for the list of jobs")
    client = open_client()
    if job is None:
        listing = client.listing(wanted, limit, sort, by_work=not as_json)
        if not listing.records and not wanted.everything and not as_json:
            click.echo("lorajob: no job matches these options", err=True)
        else:
            show_jobs(listing, as_json)
        if not as_json:
            for line in addresses():
                click.echo(f"lorajob: {line}", err=True)
        for note in client.notes():
            click.echo(f"lorajob: {note}", err=True)
    elif is_batch(job):
        show_batch(client.batch(job), as_json)
    else:
        found = client.job_of(job)
        record = found.load()
        show_job(record, found.wait_of(record), as_json)


def addresses() -> list[str]:
    """Where the `lorajob web` and `serve` are that `lorajob up` started here, in words."""
    from lorajob.worker.stack.info import StackInfo

    settings = load_settings()
    info = StackInfo.load(settings.home) if settings.redis_url is None else None
    if info is None:
        return []
    found = [("pages", info.web_url), ("speech to text", info.serve_url and f"{info.serve_url}/v1")]
    return [f"{what} at {url}" for what, url in found if url]


def show_jobs(listing: "ListedJobs", as_json: bool) -> None:
    """Print a table of jobs, or a list of their descriptions."""
    records, waits = listing.records, listing.waits
    if as_json:
        from lorajob.tasks.describe import describe

        described = [describe(record, waits.get(record.id)) for record in records]
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
    elif records:
        from lorajob.cli.format import console
        from lorajob.cli.tables import jobs_table

        screen = console(sys.stdout)
        screen.print(jobs_table(records, waits, time.time(), screen.width))
        _errors(records, sys.stdout)
    else:
        click.echo("lorajob: no jobs yet; `lorajob submit --lang hi` queues one", err=True)


def show_job(record: "JobRecord", wait: str | None, as_json: bool) -> None:
    """Print one job in full. `wait` says what it waits for."""
    if as_json:
        from lorajob.tasks.describe import describe

        click.echo(json.dumps(describe(record, wait), ensure_ascii=False, indent=2))
        return
    from lorajob.cli.format import (
        attempts_table,
        console,
        metrics_table,
        rate_notes,
    )
    from lorajob.cli.tables import stages_table
    from lorajob.storage.urls import public
    from lorajob.tasks.words import duration, state_of_work

    now = time.time()
    for name, value in (
        ("job", record.id),
        ("state", state_of_work(record)),
        ("name", record.name),
        ("tags", ", ".join(f"{key}={value}" for key, value in record.tags.items())),
        ("language", record.language),
        ("batch", record.batch),
        ("priority", record.priority if record.priority != "normal" else None),
        ("waits for", wait),
        ("base model", record.base_model),
        ("base hash", record.base[0]),
        ("base commit", record.base[1]),
        ("corpus", public(record.corpus)),
        ("submitted", f"{duration(now - record.created_at)} ago"),
        ("artifacts", record.folder),
        ("error", record.error),
    ):
        if value:
            click.echo(f"{name:11}{visible(value)}")
    screen = console(sys.stdout)
    stages = stages_table(record, now, screen.width)
    for table in (stages, attempts_table(record), metrics_table(record)):
        if table is not None:
            click.echo()
            screen.print(table)
    for line in rate_notes(record):
        click.echo(line)


def show_batch(batch: "Batch", as_json: bool) -> None:
    """Print a batch and its jobs."""
    from lorajob.cli.format import console
    from lorajob.cli.tables import batch_table
    from lorajob.tasks.describe import describe_batch

    found, listing = batch.read()
    if as_json:
        described = describe_batch(found, listing.records, listing.waits)
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return
    click.echo(summary(found, listing.records))
    screen = console(sys.stdout)
    screen.print(batch_table(listing.records, listing.waits, screen.width))
    _errors(listing.records, sys.stdout)


def summary(batch: "JobBatch", records: "Sequence[JobRecord]") -> str:
    """`batch-1a2b3c4d: running; 12 jobs: 3 succeeded, 1 failed, 8 queued`."""
    from lorajob.tasks.describe import state_of
    from lorajob.tasks.words import state_of_work

    states = Counter(state_of_work(record) for record in records)
    parts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    unknown = len(batch.jobs) - len(records)
    # A submission is still running, or was interrupted.
    if unknown:
        parts += f"; {unknown} never queued; the same batch submitted again is completed"
    return f"{batch.id}: {state_of(records, unknown)}; {len(records)} jobs: {parts}"


def _errors(records: "Sequence[JobRecord]", stream: TextIO) -> None:
    for record in records:
        if record.error:
            print(f"{record.id} {record.state}: {visible(record.error)}", file=stream)


ANYONE = click.option("--anyone", is_flag=True, help="Allow jobs of other users.")


def check_owner(client: "Client", name: str, anyone: bool) -> None:
    """Raise UsageError for a job or batch of another user, unless `anyone` is set.

    Jobs without a user, of older versions or of containers, belong to all.
    """
    if not anyone:
        found = client.batch(name) if is_batch(name) else client.job_of(name)
        check_user(client, name, found.user, anyone)


def check_user(client: "Client", name: str, owner: str | None, anyone: bool) -> None:
    """Raise UsageError for a job whose `owner` is another user, unless `anyone` is set."""
    user = client.user
    if not anyone and owner is not None and user is not None and owner != user:
        raise UsageError(f"{name} belongs to {owner}, and you are {user}; --anyone allows it")


@click.command()
@click.argument("job", type=JOB)
@ANYONE
def cancel(job: str, anyone: bool) -> None:
    """Stop JOB, or all jobs of a BATCH. Checkpoints are kept.

    `lorajob retry` continues from them.
    """
    client = open_client()
    check_owner(client, job, anyone)
    if is_batch(job):
        show_stopping(job, client.batch(job).cancel())
        return
    client.job_of(job).cancel()
    click.echo(f"{job} is stopping")


@click.command()
@click.argument("job", type=JOB)
@click.option("--failed", is_flag=True, help="For a BATCH: only failed jobs, not cancelled ones.")
@ANYONE
def retry(job: str, failed: bool, anyone: bool) -> None:
    """Queue again the unfinished stages of JOB, or of each job of a BATCH.

    Training continues from its newest checkpoint. Succeeded, queued and running jobs do not change.
    """
    client = open_client()
    check_owner(client, job, anyone)
    if is_batch(job):
        show_retried(job, client.batch(job).retry(failed))
        return
    client.job_of(job).retry()
    click.echo(f"{job} is queued again")


def show_stopping(batch: str, stopped: "ChangedJobs") -> None:
    """Print how many jobs of a batch were cancelled, and why others were not."""
    click.echo(f"{len(stopped)} of the jobs of {batch} are stopping")
    for note in stopped.notes:
        say_error(note)


def show_retried(batch: str, again: "ChangedJobs") -> None:
    """Print how many jobs of a batch were queued again. Exit with 1 if others were refused."""
    click.echo(f"{len(again)} of the jobs of {batch} are queued again")
    for note in again.notes:
        say_error(note)
    if again.notes:
        click.get_current_context().exit(1)
