"""Real workers on a Redis of the tests' own, watched from outside until they have run a job."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from lorajob.worker.connect import connect
from lorajob.worker.heartbeats import living
from lorajob.worker.machine.launch import service_environment, worker_command
from lorajob.worker.queues import KINDS
from lorajob.worker.settings import Settings
from tests.support.service import wait_for


@contextmanager
def workers(settings: Settings, **variables: str) -> Iterator[Redis]:
    """A worker of each queue, its log in HOME/QUEUE.log; all are gone at the end, and what they
    left in Redis, too.
    """
    env = service_environment(settings) | variables
    started = []
    with connect(settings) as redis:
        redis.flushall()
        try:
            for queue in KINDS:
                command = worker_command(queue, name=f"{queue}-watched")
                with (settings.home / f"{queue}.log").open("wb") as log:
                    started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            wait_for(lambda: all(living(redis, queue) for queue in KINDS), 60)
            yield redis
        finally:
            for worker in started:
                worker.terminate()
            for worker in started:
                worker.wait(timeout=240)
            redis.flushall()


def logs_of(settings: Settings) -> str:
    """What both workers logged."""
    paths = [Path(settings.home) / f"{queue}.log" for queue in KINDS]
    return "".join(path.read_text("utf-8") for path in paths)
