"""The Celery application: `celery -A lorajob.worker.app ...` and every setting it runs under.

Messages are hints and the job record is the truth, so nothing here retries or redelivers a task.
Where Redis is gets read when the application is first used; importing it needs no Redis.
"""

from collections.abc import Callable

from celery import Celery
from kombu.entity import Queue

from lorajob.worker import lifecycle
from lorajob.worker.connect import TIMEOUT_SECONDS, redis_url
from lorajob.worker.queues import PRIORITIES, QUEUES, all_queues, queue_name
from lorajob.worker.redis_url import parse_place
from lorajob.worker.settings import SETTLE_SECONDS, Settings

WEEK_SECONDS = 604_800  # the broker's own redelivery is switched off in effect
MONTH_SECONDS = 30 * 86_400


def configuration(url: str, grace_seconds: float = 60) -> dict[str, object]:
    """The settings, with the Redis at `url` as broker and result store.

    `grace_seconds` is what a stopped stage gets for its checkpoint.
    """
    place = parse_place(url)
    return place.celery() | {
        # By name: workers load the tasks, not this package.
        "imports": ("lorajob.tasks.stages", "lorajob.tasks.reconciler", "lorajob.tasks.notify"),
        # One week, or a stage longer than an hour is delivered again while it runs.
        "broker_transport_options": {
            "visibility_timeout": WEEK_SECONDS,
            "priority_steps": list(PRIORITIES.values()),
            "queue_order_strategy": "round_robin",  # a turn a lane
        }
        | place.transport_options(),
        "result_backend_transport_options": {"visibility_timeout": WEEK_SECONDS}
        | place.transport_options(),
        "visibility_timeout": WEEK_SECONDS,
        # A worker starts however long Redis takes, and outlives a Redis that restarts.
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
        # All queues, declared; a misspelt one is an error, not a queue nobody reads.
        "task_queues": [
            Queue(name, routing_key=name)  # type: ignore[no-untyped-call]  # kombu has no types
            for name in all_queues()
        ],
        "task_routes": {f"lorajob.{stage}": {"queue": queue_name(stage, 0)} for stage in QUEUES},
        "task_default_queue": "cpu.0",
        "task_default_exchange": "lorajob",
        "task_default_routing_key": "cpu.0",
        "task_create_missing_queues": False,
        # A message is acknowledged when its task ended; none waits behind a running one.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,  # a task that kills its worker would come for ever
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A fresh interpreter for every task: nothing leaks from one stage to the next.
        "worker_pool_start_method": "spawn",
        "worker_max_tasks_per_child": 1,
        # On a busy machine it takes longer than the usual 4 s, and would be killed for ever.
        "worker_proc_alive_timeout": 120.0,
        # After SIGQUIT too a stage saves its checkpoint and is given back.
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
    """An application that only sends, and hears within seconds that Redis is gone.

    It stores no results (workers do): Celery would wait for the result store when sending.
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
    """The application that a spawned pool child gets is its own `app`, not a copy.

    Celery would send a copy that lacks settings given as defaults, and with them Redis.
    """

    def __reduce__(self) -> tuple[Callable[[], Celery], tuple[()]]:
        return this_app, ()


def this_app() -> Celery:
    """`app`, found by its name in whichever process asks."""
    return app


app = Application("lorajob")
app.add_defaults(lambda: configuration(redis_url(Settings()), Settings().grace_seconds))
app.steps["worker"].add(lifecycle.StopStep)
lifecycle.install()
