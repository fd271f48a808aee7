"""Progress shown to Celery's state and to Flower, by a thread that may wait for Redis."""

import logging
import threading
from types import TracebackType

from celery import Task
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from lorajob.tasks.describe import progress_line, with_percent
from lorajob.worker.supervision.outcome import Progress

END_SECONDS = 2.0

logger = logging.getLogger(__name__)


class ProgressMirror:
    """Shows the latest progress of one stage while its block runs.

    A supervisor must never wait for it: Celery tries long to reach a Redis that is gone, while a
    lease has to be renewed and a stop to be heard.
    """

    def __init__(self, task: Task, job_id: str, language: str, stage: str) -> None:
        self._app, self._request = task.app, task.request  # which another thread would not find
        self._job_id = job_id
        self._meta = {"language": language, "stage": stage}
        self._latest: Progress | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def show(self, progress: Progress) -> None:
        """Have this shown, in place of what was not shown yet."""
        with self._changed:
            self._latest = progress
            self._changed.notify()

    def __enter__(self) -> "ProgressMirror":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout=END_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._latest is not None)
                if self._ended:
                    return
                progress, self._latest = self._latest, None
            self._send(with_percent({**self._meta, **(progress or {})}))

    def _send(self, meta: Progress) -> None:
        try:
            request = self._request
            self._app.backend.store_result(request.id, meta, "PROGRESS", request=request)
            with self._app.events.default_dispatcher(hostname=request.hostname) as events:
                line = progress_line(meta)
                events.send("task-progress", uuid=request.id, retry=False, result=line)
        except (KombuError, RedisError, OSError) as error:
            logger.info("%s: progress was not shown: %s", self._job_id, error)
