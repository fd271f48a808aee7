"""`lorajob rm`, `prune` and `rebuild`: jobs are deleted, or restored from their files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lorajob.cli.context import JOB, is_batch, load_settings, open_client
from lorajob.cli.errors import say_error
from lorajob.cli.jobs import ANYONE, check_owner, check_user
from lorajob.errors import UsageError

if TYPE_CHECKING:
    from lorajob.client.job import Job
    from lorajob.client.service import Client
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
    client = open_client()
    for job in jobs:
        if is_batch(job):
            raise UsageError(f"JOB: {job} is a batch; name its jobs, or use `lorajob prune`")
        found = client.job_of(job)
        if (why := found.damage) is not None:
            _check_damaged(client, found, why, anyone, yes)
            continue
        check_owner(client, job, anyone)
        if not found.over:
            raise UsageError(
                f"JOB: {job} is {found.state}; `lorajob cancel {job}` first. Nothing was deleted"
            )
        found.check_not_promoted()
    for job in dict.fromkeys(jobs):
        client.job_of(job).remove(damaged=yes)
        click.echo(job)


def _check_damaged(client: "Client", job: "Job", why: str, anyone: bool, yes: bool) -> None:
    """Raise UsageError unless a job with a damaged record may be deleted."""
    job.check_not_promoted()
    copy = job.copy()
    check_user(client, job.id, copy.user if copy is not None else None, anyone)
    if not yes:
        raise UsageError(
            f"JOB: {why}; `lorajob rebuild` restores it from the job's files, `lorajob rm --yes "
            f"{job.id}` deletes both. Nothing was deleted"
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
    help="best: keep the job with the lowest error rate for each language, base model and test "
    "set.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be deleted.")
def prune(older: str | None, keep: "Keep", dry_run: bool) -> None:
    """Delete the files and records of jobs that ended long ago.

    Queued, running and promoted jobs are kept. Corpora that other machines sent and no job names
    are deleted, too, a day after they came. Prints the ids of the deleted jobs, one on each line.
    """
    dry_run = dry_run or older is None
    gone = open_client().prune(older or "30d", keep, dry_run)
    for job in gone:
        click.echo(job)
    word = "would be deleted" if dry_run else "deleted"
    click.echo(f"lorajob: {len(gone)} jobs {word}", err=True)
    if gone.corpora:
        click.echo(f"lorajob: {len(gone.corpora)} unused corpora {word}", err=True)
    for note in gone.notes:
        say_error(note)
    if gone.notes:
        click.get_current_context().exit(1)


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
    rebuilt = open_client().rebuild(take_over)
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
            f"again in {2 * load_settings().lease_seconds:.0f} s, or take it with `lorajob rebuild "
            "--take-over`"
        )
    left = bool(rebuilt.problems or rebuilt.foreign or rebuilt.leased)
    if not rebuilt.jobs and not left:
        click.echo("lorajob: no job is missing in Redis", err=True)
    if left:
        click.get_current_context().exit(1)
