"""The url of Redis, and connections to it that answer or fail within seconds."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from redis import Redis
from redis.backoff import ConstantBackoff, ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    InvalidResponse,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.retry import Retry

from lorajob.errors import ServiceError, UsageError
from lorajob.worker.redis_url import parse_place
from lorajob.worker.settings import Settings

TIMEOUT_SECONDS = 3.0
PATIENT_TRIES = 200  # about a quarter of an hour, so that finished work survives a Redis restart
LONGEST_PAUSE_SECONDS = 5.0
# Temporary errors. A script's error holds the word within a sentence; redis-py turns some errors
# into classes whose text lacks the word.
PASSING = ("MISCONF", "-OOM", "-READONLY", "-LOADING", "NOREPLICAS", "BUSY Redis")
CLUSTER = ("CROSSSLOT", "CLUSTERDOWN", "MOVED ")  # errors that only a Redis Cluster has
NO_CLUSTER = "is a Redis Cluster, which is not supported; use a single Redis, or Sentinels"
# What Redis says without a password, besides what is an AuthenticationError.
NO_LOGIN = ("NOAUTH", "WRONGPASS", "HELLO must be called", "invalid username-password")
WRONG_LOGIN = (
    "refuses the login: give its password in LORAJOB_REDIS_URL, as in redis://:PASSWORD@HOST:6379/0"
)
REFUSING = (OutOfMemoryError, ReadOnlyError, MasterDownError, InvalidResponse)

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


def redis_url(settings: Settings) -> str:
    """LORAJOB_REDIS_URL, else the url that `lorajob up` wrote to up.json. Raises ServiceError."""
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
    """The url without its password, for messages.

    A password may hold characters that end a url's host, so the last @ is taken as its end.
    """
    front, at, host = url.rpartition("@")
    scheme, mark, name = front.partition("://")
    user, colon, _ = name.partition(":")
    masked = f"{scheme}{mark}{user}{':***' if colon else ''}{at}{host}" if at else url
    return masked.partition("?")[0].partition("#")[0]  # a query may hold a password


def connect(settings: Settings, patient: bool = False) -> Redis:
    """A client that decodes text. It fails within seconds, or retries for long if `patient`.

    Nothing is sent yet. Raises UsageError for a malformed LORAJOB_REDIS_URL, and ServiceError if
    there is no url.
    """
    url = redis_url(settings)
    hasty = Retry(ConstantBackoff(0.1), 1)
    lasting = Retry(ExponentialBackoff(cap=5, base=0.5), PATIENT_TRIES)
    try:
        # This refuses unix: urls, which redis-py accepts and Celery does not.
        return parse_place(url).client(
            decode_responses=True,
            encoding_errors="surrogateescape",  # bytes that are no text damage their own entry only
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
    """Call `ask`, and retry while Redis refuses: its disk or memory is full, it is loading or busy,
    it is a replica, it has too few of them, or a proxy answers in its place. A
    patient client handles broken connections itself.
    """
    for tries in range(PATIENT_TRIES):
        try:
            return ask()
        except RedisError as error:
            if not any(word in str(error) for word in PASSING) and not isinstance(error, REFUSING):
                raise
            logger.warning("Redis refuses, and is asked again: %s", error)
            time.sleep(min(LONGEST_PAUSE_SECONDS, 0.5 * 2**tries))
    return ask()


@contextmanager
def service_errors(settings: Settings) -> Iterator[None]:
    """Turn errors of Redis and of its connection into a ServiceError that names the masked url."""
    try:
        yield
    except (RedisError, OSError) as error:
        url = shown(redis_url(settings))
        of_cluster = isinstance(error, ClusterDownError) and not isinstance(error, MasterDownError)
        if of_cluster or any(word in str(error) for word in CLUSTER):
            raise ServiceError(f"Redis at {url} {NO_CLUSTER}") from error
        if isinstance(error, AuthenticationError) or any(it in str(error) for it in NO_LOGIN):
            raise ServiceError(f"Redis at {url} {WRONG_LOGIN}") from error
        if "WRONGTYPE" in str(error):
            raise ServiceError(f"Redis at {url} holds damaged entries: {error}") from error
        raise ServiceError(f"Redis at {url} is unavailable: {error}") from error
