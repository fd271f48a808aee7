"""Follows a job: its logs and its state, as server-sent events."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from lorajob.errors import JobNotFoundError, LorajobError, ServiceError, UsageError
from lorajob.job.jobdir import JobDir
from lorajob.server.web.streams import BEAT, event
from lorajob.tasks.describe import Description, describe
from lorajob.tasks.jobs import Jobs, waits
from lorajob.worker.artifacts.lookup import find_job

POLL_SECONDS = 1.0
BEAT_SECONDS = 15.0  # without an event
MOST_BYTES = 1 << 18  # of a log in one event
PLACE = re.compile(r"[a-z]+:\d{1,15}(?:,[a-z]+:\d{1,15}){0,3}")


@dataclass
class LogPlace:
    """How much of each stage's log was read, in bytes."""

    read: dict[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Such as `preprocess:1200,train:80`."""
        return ",".join(f"{stage}:{count}" for stage, count in self.read.items())


def log_place(text: str | None, stages: tuple[str, ...]) -> LogPlace:
    """The place that a Last-Event-ID names. Raises UsageError."""
    read = dict.fromkeys(stages, 0)
    if text:
        if not PLACE.fullmatch(text):
            raise UsageError(f"Last-Event-ID: {text!r} is not the id of an event of a log")
        for part in text.split(","):
            stage, _, count = part.partition(":")
            if stage in read:
                read[stage] = int(count)
    return LogPlace(read)


def read_log(folder: JobDir, place: LogPlace, whole: bool) -> list[tuple[str, str]]:
    """(stage, text) of what was added, and move `place` behind it.

    Only complete lines, unless `whole` asks for the rest, too. A part ends at a letter's end.
    """
    found = []
    for stage in place.read:
        path = folder.log_path(stage)
        with suppress(FileNotFoundError), path.open("rb") as file:
            # Another attempt's machine may have a shorter log.
            if file.seek(0, 2) < place.read[stage]:
                place.read[stage] = 0
            file.seek(place.read[stage])
            data = file.read(MOST_BYTES)
            if not whole or len(data) == MOST_BYTES:
                end = data.rfind(b"\n") + 1
                data = data[:end] if end or len(data) < MOST_BYTES else data
            place.read[stage] += len(data)
            if data:
                found.append((stage, data.decode("utf-8", "replace")))
    return found


def known(jobs: Jobs, job_id: str) -> Description:
    """The description of a job now. Raises JobNotFoundError, ServiceError."""
    record = jobs.load(job_id)
    return describe(record, waits(jobs, [record]).get(record.id))


async def log_events(jobs: Jobs, job_id: str, place: LogPlace) -> AsyncIterator[bytes]:
    """Events `log` with `stage` and `text`, and one event `end` with `state` when the job ended."""
    files = find_job(job_id, jobs.settings)
    context = files.logs(lambda: jobs.load(job_id))
    folder, refresh = await asyncio.to_thread(context.__enter__)
    try:
        quiet, over, state = 0.0, False, ""
        while True:
            try:
                record = await asyncio.to_thread(jobs.load, job_id)
                # The state is read before the log, so the log of a job that is over is complete.
                over, state = record.over, record.state
            except ServiceError:
                over = False
            await asyncio.to_thread(refresh)
            while found := await asyncio.to_thread(read_log, folder, place, over):
                for stage, text in found:
                    yield event({"stage": stage, "text": text}, "log", place.text)
                quiet = 0.0
            if over:
                yield event({"state": state}, "end", place.text)
                return
            if quiet >= BEAT_SECONDS:
                yield BEAT
                quiet = 0.0
            await asyncio.sleep(POLL_SECONDS)
            quiet += POLL_SECONDS
    except (LorajobError, OSError) as error:
        yield event({"message": str(error)}, "error", place.text)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def state_events(jobs: Jobs, job_id: str) -> AsyncIterator[bytes]:
    """An event `job` with the job's description now and after each change, until it has ended."""
    last: Description | None = None
    quiet = 0.0
    while True:
        try:
            now = await asyncio.to_thread(known, jobs, job_id)
        except JobNotFoundError as error:
            yield event({"message": str(error)}, "error")
            return
        except LorajobError:
            now = last or {}
        if now != last and now:
            yield event(now, "job")
            last, quiet = now, 0.0
            if now["state"] not in ("queued", "running"):
                yield event({"state": now["state"]}, "end")
                return
        if quiet >= BEAT_SECONDS:
            yield BEAT
            quiet = 0.0
        await asyncio.sleep(POLL_SECONDS)
        quiet += POLL_SECONDS
