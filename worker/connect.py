"""Where Redis is, and a connection to it that answers or fails within seconds."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis import Redis
from redis.backoff import ConstantBackoff, ExponentialBackoff
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError
from redis.retry import Retry

from lorajob.errors import ServiceError, UsageError
from lorajob.worker.redis_url import parse_place
from lorajob.worker.settings import Settings

TIMEOUT_SECONDS = 3.0
PATIENT_TRIES = 200  # about a quarter of an hour: finished work outlasts a Redis that restarts
LONGEST_PAUSE_SECONDS = 5.0
# Errors that go by. A script's says it within a sentence; some have a class and lost the word.
PASSING = ("MISCONF", "-OOM", "-READONLY", "-LOADING")
FULL = (OutOfMemoryError, ReadOnlyError)

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


def redis_url(settings: Settings) -> str:
    """LORAJOB_REDIS_URL, else the url that `lorajob up` left in up.json. Raises ServiceError."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    try:
        stack = json.loads((settings.home / "up.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ServiceError("no Redis: run `lorajob up` or set LORAJOB_REDIS_URL") from None
    except ValueError:
        stack = None
    if not isinstance(stack, dict) or "redis_url" not in stack:
        raise ServiceError(f"{settings.home / 'up.json'} is damaged: remove it, then `lorajob up`")
    return str(stack["redis_url"])


def shown(url: str) -> str:
    """The url without its password, fit to print. A password may hold what ends a url's host."""
    front, at, host = url.rpartition("@")
    scheme, mark, name = front.partition("://")
    user, colon, _ = name.partition(":")
    masked = f"{scheme}{mark}{user}{':***' if colon else ''}{at}{host}" if at else url
    return masked.partition("?")[0].partition("#")[0]  # a query may hold a password


def connect(settings: Settings, patient: bool = False) -> Redis:
    """A client that decodes text and gives up soon, or keeps trying where `patient`.

    Nothing is sent yet. Raises UsageError for a LORAJOB_REDIS_URL that is none, ServiceError where
    there is no url.
    """
    url = redis_url(settings)
    hasty = Retry(ConstantBackoff(0.1), 1)
    lasting = Retry(ExponentialBackoff(cap=5, base=0.5), PATIENT_TRIES)
    try:
        return parse_place(url).client(  # which takes what Celery takes, no unix:
            decode_responses=True,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=lasting if patient else hasty,
        )
    except ValueError as error:
        if settings.redis_url is None:
            place = settings.home / "up.json"
            raise ServiceError(f"{place} is damaged: remove it, then `lorajob up`") from None
        raise UsageError(f"LORAJOB_REDIS_URL: {shown(url)!r} is not a Redis url: {error}") from None


def retry_redis(ask: Callable[[], Answer]) -> Answer:
    """Ask, again and again while Redis refuses for a while: its disk or memory is full, it loads,
    or it is a replica. What comes of a connection that breaks is for a patient client.
    """
    for tries in range(PATIENT_TRIES):
        try:
            return ask()
        except RedisError as error:
            if not any(word in str(error) for word in PASSING) and not isinstance(error, FULL):
                raise
            logger.warning("Redis refuses, and is asked again: %s", error)
            time.sleep(min(LONGEST_PAUSE_SECONDS, 0.5 * 2**tries))
    return ask()


@contextmanager
def service_errors(settings: Settings) -> Iterator[None]:
    """Turn what Redis or the way to it refuses into one ServiceError naming the masked url."""
    try:
        yield
    except (RedisError, OSError) as error:
        url = shown(redis_url(settings))
        raise ServiceError(f"Redis at {url} does not serve: {error}") from error
