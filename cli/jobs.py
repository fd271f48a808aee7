"""`lorajob status`, `cancel`, `retry`, `rebuild` and `prune`: the commands on existing jobs."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

import click

from lorajob.cli.context import JOB, is_batch, load_record, load_settings, open_client, open_jobs
from lorajob.cli.errors import say_error
from lorajob.errors import UsageError
from lorajob.job.states import JOB_STATES
from lorajob.visible import visible

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Jobs
    from lorajob.tasks.listing import Sort
    from lorajob.tasks.prune import Keep
    from lorajob.worker.records.batches import JobBatch
    from lorajob.worker.records.record import JobRecord

MOST_NAMED = 20  # jobs in one line


SORTS = ("newest", "oldest", "wer", "name", "language", "state")


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
    help="wer: the lowest word error rate first.",
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
                 wer_interval (95 %), clips; a model that has not been measured
                 yet is left out; converted equals delivered and is deprecated
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
    from lorajob.tasks.listing import list_jobs, parse_filter
    from lorajob.tasks.words import state_of_work

    if disk:
        from lorajob.cli.clean import show_disk

        if job is not None:
            raise UsageError("JOB: --disk is for this machine, not for one job")
        show_disk(as_json)
        return
    wanted = parse_filter(lang, states, tags, since)
    if job is not None and not (wanted.everything and sort == "newest"):
        raise UsageError("JOB: --lang, --state, --tag, --since and --sort are for the list of jobs")
    if job is None:
        from lorajob.worker.heartbeats import mixture

        jobs = open_jobs()
        shown = (lambda record: record.state) if as_json else state_of_work
        records = list_jobs(jobs, wanted, limit, sort, shown)
        if not records and not wanted.everything and not as_json:
            click.echo("lorajob: no job matches these options", err=True)
        else:
            show_jobs(jobs, records, as_json)
        if (pages := web_address()) and not as_json:
            click.echo(f"lorajob: pages at {pages}", err=True)
        for name, found in sorted(jobs.unfit().items()):
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.since))
            click.echo(f"lorajob: {name} takes no work since {since}: {found.why}", err=True)
        if mixed := mixture(jobs.versions()):
            click.echo(f"lorajob: workers of several versions: {mixed}", err=True)
        from lorajob.cli.service_checks import REPAIR

        for job_id, why in jobs.damaged().items():
            click.echo(f"lorajob: {job_id} is set aside: {why}; {REPAIR}", err=True)
        if unknown := jobs.unknown():
            click.echo(
                f"lorajob: {len(unknown)} jobs here are missing in Redis, such as {unknown[0]}; "
                "`lorajob rebuild` restores them from their files",
                err=True,
            )
    elif is_batch(job):
        show_batch(open_jobs(), job, as_json)
    else:
        show_job(open_jobs(), load_record(job), as_json)


def web_address() -> str | None:
    """The address of the `lorajob web` that `lorajob up` started here."""
    from lorajob.worker.stack.info import StackInfo

    settings = load_settings()
    info = StackInfo.load(settings.home) if settings.redis_url is None else None
    return None if info is None else info.web_url


def show_jobs(jobs: "Jobs", records: "list[JobRecord]", as_json: bool) -> None:
    """Print a table of jobs, or a list of their descriptions."""
    from lorajob.tasks.jobs import waits

    waiting = waits(jobs, records)
    if as_json:
        from lorajob.tasks.describe import describe

        described = [describe(record, waiting.get(record.id)) for record in records]
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
    elif records:
        from lorajob.cli.format import console
        from lorajob.cli.tables import jobs_table

        screen = console(sys.stdout)
        screen.print(jobs_table(records, waiting, time.time(), screen.width))
        _errors(records, sys.stdout)
    else:
        click.echo("lorajob: no jobs yet; `lorajob submit --lang hi` queues one", err=True)


def show_job(jobs: "Jobs", record: "JobRecord", as_json: bool) -> None:
    """Print one job in full."""
    from lorajob.tasks.jobs import waits

    wait = waits(jobs, [record]).get(record.id)
    if as_json:
        from lorajob.tasks.describe import describe

        click.echo(json.dumps(describe(record, wait), ensure_ascii=False, indent=2))
        return
    from lorajob.cli.format import (
        attempts_table,
        console,
        metrics_table,
        rate_notes,
        stages_table,
    )
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
    for table in (stages_table(record, now), attempts_table(record), metrics_table(record)):
        if table is not None:
            click.echo()
            console(sys.stdout).print(table)
    for line in rate_notes(record):
        click.echo(line)


def show_batch(jobs: "Jobs", batch_id: str, as_json: bool) -> None:
    """Print a batch and its jobs."""
    from lorajob.cli.format import console
    from lorajob.cli.tables import batch_table
    from lorajob.tasks.batches import load_batch
    from lorajob.tasks.describe import describe_batch
    from lorajob.tasks.jobs import waits

    batch, records = load_batch(jobs, batch_id)
    waiting = waits(jobs, records)
    if as_json:
        described = describe_batch(batch, records, waiting)
        click.echo(json.dumps(described, ensure_ascii=False, indent=2))
        return
    click.echo(summary(batch, records))
    screen = console(sys.stdout)
    screen.print(batch_table(records, waiting, screen.width))
    _errors(records, sys.stdout)


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


def check_owner(jobs: "Jobs", name: str, anyone: bool) -> None:
    """Raise UsageError for a job or batch of another user, unless `anyone` is set.

    Jobs without a user, of older versions or of containers, belong to all.
    """
    if anyone:
        return
    if is_batch(name):
        from lorajob.tasks.batches import load_batch

        owner = load_batch(jobs, name)[0].user
    else:
        owner = jobs.load(name, mirrored=False).user
    _check_user(jobs, name, owner, anyone)


def _check_user(jobs: "Jobs", name: str, owner: str | None, anyone: bool) -> None:
    if not anyone and owner is not None and jobs.user is not None and owner != jobs.user:
        raise UsageError(f"{name} belongs to {owner}, and you are {jobs.user}; --anyone allows it")


@click.command()
@click.argument("job", type=JOB)
@ANYONE
def cancel(job: str, anyone: bool) -> None:
    """Stop JOB, or all jobs of a BATCH. Checkpoints are kept.

    `lorajob retry` continues from them.
    """
    jobs = open_jobs()
    check_owner(jobs, job, anyone)
    if is_batch(job):
        from lorajob.tasks.batches import cancel_batch

        count = len(cancel_batch(jobs, job))
        click.echo(f"{count} of the jobs of {job} are stopping")
        return
    open_client().job(job).cancel()
    click.echo(f"{job} is stopping")


@click.command()
@click.argument("job", type=JOB)
@click.option("--failed", is_flag=True, help="For a BATCH: only failed jobs, not cancelled ones.")
@ANYONE
def retry(job: str, failed: bool, anyone: bool) -> None:
    """Queue again the unfinished stages of JOB, or of each job of a BATCH.

    Training continues from its newest checkpoint. Succeeded, queued and running jobs do not change.
    """
    jobs = open_jobs()
    check_owner(jobs, job, anyone)
    if is_batch(job):
        from lorajob.tasks.batches import retry_batch

        count = len(retry_batch(jobs, job, failed))
        click.echo(f"{count} of the jobs of {job} are queued again")
        return
    open_client().job(job).retry()
    click.echo(f"{job} is queued again")


@click.command()
@click.argument("jobs", type=JOB, metavar="JOB...", nargs=-1, required=True)
@ANYONE
@click.option("--yes", is_flag=True, help="Also delete a job whose record in Redis is damaged.")
def rm(jobs: tuple[str, ...], anyone: bool, yes: bool) -> None:
    """Delete the files and records of the named JOBs. They must have ended.

    A job whose record is damaged may not have ended: only --yes deletes it. If one of the jobs
    cannot be deleted, none is. Prints the ids of the deleted jobs, one on each line. `lorajob
    prune` deletes old jobs.
    """
    from lorajob.tasks.prune import check_not_promoted, damage, remove, remove_damaged

    opened, damaged = open_jobs(), set()
    for job in jobs:
        if is_batch(job):
            raise UsageError(f"JOB: {job} is a batch; name its jobs, or use `lorajob prune`")
        if (why := damage(opened, job)) is not None:
            _check_damaged(opened, job, why, anyone, yes)
            damaged.add(job)
            continue
        check_owner(opened, job, anyone)
        if not (record := opened.load(job, mirrored=False)).over:
            raise UsageError(
                f"JOB: {job} is {record.state}; `lorajob cancel {job}` first. Nothing was deleted"
            )
        check_not_promoted(opened, job)
    for job in dict.fromkeys(jobs):
        (remove_damaged if job in damaged else remove)(opened, job)
        click.echo(job)


def _check_damaged(jobs: "Jobs", job: str, why: str, anyone: bool, yes: bool) -> None:
    """Raise UsageError unless a job with a damaged record may be deleted."""
    from lorajob.tasks.prune import check_not_promoted, copy_of

    check_not_promoted(jobs, job)
    copy = copy_of(jobs, job)
    _check_user(jobs, job, copy.user if copy is not None else None, anyone)
    if not yes:
        raise UsageError(
            f"JOB: {why}; `lorajob rebuild` restores it from the job's files, `lorajob rm --yes "
            f"{job}` deletes both. Nothing was deleted"
        )


@click.command()
@click.option(
    "--older",
    metavar="AGE",
    help="Delete jobs that ended more than this time ago, such as 12h, 30d or 8w. Without it, jobs "
    "of 30d and older are listed and not deleted.",
)
@click.option(
    "--keep",
    type=click.Choice(["best", "none"]),
    default="best",
    show_default=True,
    help="best: keep the job with the lowest WER for each language, base model and test set.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
def prune(older: str | None, keep: "Keep", dry_run: bool) -> None:
    """Delete the files and records of jobs that ended long ago.

    Queued, running and promoted jobs are kept. Prints the ids of the deleted jobs, one on each
    line.
    """
    from lorajob.tasks.prune import parse_age
    from lorajob.tasks.prune import prune as prune_jobs

    dry_run = dry_run or older is None
    gone = prune_jobs(open_jobs(), parse_age(older or "30d"), keep, dry_run)
    for record in gone:
        click.echo(record.id)
    word = "would be deleted" if dry_run else "deleted"
    click.echo(f"lorajob: {len(gone)} jobs {word}", err=True)


def _some(ids: Sequence[str]) -> str:
    """The first of many ids, for one line."""
    more = len(ids) - MOST_NAMED
    return ", ".join(ids[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@click.command()
@click.option(
    "--take-over",
    is_flag=True,
    help="Also restore jobs of another service, and jobs that a worker seems to run. Stop the "
    "other service first.",
)
def rebuild(take_over: bool) -> None:
    """Restore the Redis records of jobs whose files are in LORAJOB_ARTIFACTS.

    Use it when Redis has lost its data, or when a record is damaged. Finished stages stay finished.
    Unfinished jobs are queued again and continue from their checkpoints. Jobs of a service with
    another Redis, and jobs whose worker was alive a short time ago, are skipped. Prints the ids of
    the restored jobs.
    """
    from lorajob.tasks.rebuild import rebuild as rebuild_records

    settings = load_settings()
    rebuilt = rebuild_records(settings, take_over)
    for job_id in rebuilt.jobs:
        click.echo(job_id)
    for problem in rebuilt.problems:
        say_error(f"not rebuilt: {problem}")
    if rebuilt.foreign:
        say_error(
            f"not rebuilt: {_some(rebuilt.foreign)}: of another service, with another Redis; "
            "if that one has ended for good, `lorajob rebuild --take-over` takes its jobs"
        )
    if rebuilt.leased:
        say_error(
            f"not rebuilt: {_some(rebuilt.leased)}: a worker ran this a short time ago; try "
            f"again in {2 * settings.lease_seconds:.0f} s, or take it with `lorajob rebuild "
            "--take-over`"
        )
    left = bool(rebuilt.problems or rebuilt.foreign or rebuilt.leased)
    if not rebuilt.jobs and not left:
        click.echo("lorajob: no job is missing in Redis", err=True)
    if left:
        raise SystemExit(1)
