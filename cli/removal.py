"""`lorajob rm`, `prune` and `rebuild`: jobs are deleted, or restored from their files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import JOB, is_batch, load_settings, open_jobs
from lorajob.cli.errors import say_error
from lorajob.cli.jobs import ANYONE, check_owner, check_user
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.tasks.jobs import Jobs
    from lorajob.tasks.prune import Keep

MOST_NAMED = 20  # jobs in one line


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
    check_user(jobs, job, copy.user if copy is not None else None, anyone)
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
