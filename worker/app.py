"""The Celery application of `celery -A lorajob.worker.app ...`, and all its settings.

Messages are hints and the job record is the truth, so Celery retries and redelivers no task. The
application reads the url of Redis on first use; importing this module needs no Redis.
"""

from typing import Any, cast

from celery import Celery
from kombu.entity import Queue

from lorajob.worker import lifecycle
from lorajob.worker.connect import TIMEOUT_SECONDS, redis_url
from lorajob.worker.queues import PRIORITIES, QUEUES, all_queues, queue_name
from lorajob.worker.redis_url import parse_place
from lorajob.worker.settings import SETTLE_SECONDS, Settings

WEEK_SECONDS = 604_800  # long enough that the broker in effect never redelivers a message
MONTH_SECONDS = 30 * 86_400


def configuration(url: str, grace_seconds: float = 60) -> dict[str, object]:
    """The settings, with the Redis at `url` as broker and result store.

    `grace_seconds` is the time that a stopped stage has to save its checkpoint.
    """
    place = parse_place(url)
    return place.celery() | {
        # By name: workers load the tasks, not this package.
        "imports": ("lorajob.tasks.stages", "lorajob.tasks.reconciler", "lorajob.tasks.notify"),
        # One week: with the default of one hour a longer stage would be delivered twice.
        "broker_transport_options": {
            "visibility_timeout": WEEK_SECONDS,
            "priority_steps": list(PRIORITIES.values()),
            "queue_order_strategy": "round_robin",  # lanes are served in rotation
        }
        | place.transport_options(),
        "result_backend_transport_options": {"visibility_timeout": WEEK_SECONDS}
        | place.transport_options(),
        "visibility_timeout": WEEK_SECONDS,
        # A worker waits for Redis without limit at its start, and after a restart of Redis.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Giving up on publishing the next stage would turn finished work into a failure.
        "task_publish_retry": True,
        "task_publish_retry_policy": {
            "max_retries": 200,
            "interval_start": 0.5,
            "interval_step": 1,
            "interval_max": 5,
        },
        # JSON only: a message can name a job, never carry code.
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # All queues are declared, so that a misspelt name is an error, not a queue without readers.
        "task_queues": [
            Queue(name, routing_key=name)  # type: ignore[no-untyped-call]  # kombu has no types
            for name in all_queues()
        ],
        "task_routes": {f"lorajob.{stage}": {"queue": queue_name(stage, 0)} for stage in QUEUES},
        "task_default_queue": "cpu.0",
        "task_default_exchange": "lorajob",
        "task_default_routing_key": "cpu.0",
        "task_create_missing_queues": False,
        # A message is acknowledged when its task has ended. A worker prefetches no message, so
        # that none waits behind a running task.
        "task_acks_late": True,
        # Otherwise a task that kills its worker would be redelivered for ever.
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Every task gets a fresh interpreter, so that no state leaks from one stage to the next.
        "worker_pool_start_method": "spawn",
        "worker_max_tasks_per_child": 1,
        # On a busy machine a pool process takes longer to start than the default of 4 s, after
        # which Celery kills it each time.
        "worker_proc_alive_timeout": 120.0,
        # After SIGQUIT, too, a stage has time to save its checkpoint and is given back.
        "worker_soft_shutdown_timeout": grace_seconds + SETTLE_SECONDS,
        "worker_hijack_root_logger": False,
        # What Flower shows: state, arguments, results, events.
        "task_track_started": True,
        "result_extended": True,
        "result_expires": MONTH_SECONDS,
        "worker_send_task_events": True,
        "enable_utc": True,
    }


def submitter(url: str) -> Celery:
    """An application that only sends, and fails within seconds if Redis is unavailable.

    Its result store is disabled, because Celery would wait for it when sending. Workers store the
    results.
    """
    sending = Celery("lorajob", set_as_current=False)
    sending.conf.update(configuration(url))
    timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    sending.conf.update(
        result_backend="disabled://",
        broker_transport_options=sending.conf.broker_transport_options | timeouts,
        task_publish_retry=False,
    )
    return sending


class Application(Celery):  # type: ignore[misc]  # Celery has no types
    """An application that a spawned pool child imports instead of unpickling a copy.

    Celery's copy lacks the settings that are given as defaults, among them the url of Redis.
    """

    def __reduce__(self) -> Any:
        return this_app, ()


def this_app() -> Celery:
    """The `app` of the calling process."""
    return app


app = Application("lorajob")
app.add_defaults(lambda: configuration(redis_url(Settings()), Settings().grace_seconds))
steps = cast("dict[str, set[type]]", app.steps)
steps["worker"].add(lifecycle.StopStep)
steps["consumer"].add(lifecycle.FitStep)
lifecycle.install()
