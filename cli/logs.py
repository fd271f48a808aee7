"""`lorajob logs`: print and follow the logs of a job."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from lorajob.cli.context import JOB, job_files, load_record, open_jobs
from lorajob.errors import JobNotFoundError, ServiceError
from lorajob.job.jobdir import STAGES, JobDir

POLL_SECONDS = 0.5
OUTAGE_SECONDS = 600.0  # following ends if Redis stays unavailable for so long


@click.command()
@click.argument("job", type=JOB)
@click.option(
    "-f", "--follow", is_flag=True, help="Print new lines as they come, until the job ends."
)
@click.option("--stage", type=click.Choice(STAGES), help="Only this stage's log.")
def logs(job: str, follow: bool, stage: str | None) -> None:
    """Print the logs of JOB's stages, from preprocess to convert."""
    with job_files(job).logs(lambda: load_record(job)) as (folder, refresh):
        print_logs(job, folder, refresh, follow, stage)


def print_logs(
    job: str, folder: JobDir, refresh: Callable[[], None], follow: bool, stage: str | None
) -> None:
    """Print the logs in `folder`. With `follow`, print new text until the job ends."""
    reader = LogReader(folder, (stage,) if stage else STAGES)
    watched = _Watched(job)
    printed = False
    ended = not follow
    while True:
        refresh()
        for text in reader.new_text():
            click.echo(text, nl=False)
            printed = True
        if ended:
            break
        # When the job has ended, the logs are read once more, to their end.
        ended = watched.ended()
        if not ended:
            time.sleep(POLL_SECONDS)
    if not printed:
        click.echo(f"lorajob: {job} has written no log yet", err=True)


class _Watched:
    """Asks whether a job has ended, through outages of Redis and until `lorajob down`."""

    def __init__(self, job: str) -> None:
        self._job, self._jobs = job, open_jobs()
        self._away: float | None = None

    def ended(self) -> bool:
        """Whether no more log will come here. Raises ServiceError after a long outage."""
        from lorajob.worker.stack.info import StackInfo

        try:
            over = self._jobs.load(self._job, mirrored=False).over
        except JobNotFoundError:
            return load_record(self._job).over  # Redis has lost it: job.json tells, with a note
        except ServiceError as error:
            settings = self._jobs.settings
            if settings.redis_url is None and StackInfo.load(settings.home) is None:
                return self._down()
            if self._away is None:
                self._away = time.monotonic()
                click.echo(f"lorajob: {error}; waiting for Redis", err=True)
            if time.monotonic() - self._away > OUTAGE_SECONDS:
                raise
            return False
        self._away = None
        return over

    def _down(self) -> bool:
        """`lorajob down` has ended the service, and with it the stage that wrote the log."""
        from lorajob.worker.artifacts.lookup import find_job

        record = find_job(self._job, self._jobs.settings).read_record()
        if record is None or not record.over:
            click.echo(
                f"lorajob: the service is down, and {self._job} has not ended; `lorajob up` "
                "continues it",
                err=True,
            )
        return True


class LogReader:
    """Reads the text that was added to a job's logs since the last call."""

    def __init__(self, folder: JobDir, stages: tuple[str, ...]) -> None:
        self._paths = {stage: folder.log_path(stage) for stage in stages}
        self._read = dict.fromkeys(stages, 0)
        self._last: str | None = None

    def new_text(self) -> Iterator[str]:
        """Yield new text in the order of the stages, with a heading when the stage changes."""
        for stage, path in self._paths.items():
            text = self._gain(stage, path)
            if text:
                if self._last != stage and len(self._paths) > 1:
                    yield f"==> {stage} <==\n"
                self._last = stage
                yield text

    def _gain(self, stage: str, path: Path) -> str:
        try:
            with path.open("rb") as file:
                file.seek(self._read[stage])
                data = file.read()
        except FileNotFoundError:
            return ""
        self._read[stage] += len(data)
        return data.decode("utf-8", errors="replace")
