"""Finds a service: over Redis, or over the url of its `lorajob web`."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import SecretStr

from lorajob.client.job import Job
from lorajob.client.remote import RemoteClient
from lorajob.client.requests import PathOrUrl, load_settings
from lorajob.client.service import Client
from lorajob.tasks.jobs import Jobs
from lorajob.worker.connect import service_errors


def connect(
    url: str | None = None,
    artifacts: PathOrUrl | None = None,
    *,
    key: str | None = None,
    redis_url: str | None = None,
) -> Client:
    """The service of `url`, of LORAJOB_URL, of LORAJOB_REDIS_URL, or of `lorajob up` here.

    A url of Redis needs the jobs' files, too: `artifacts` is their folder or url, in place of
    LORAJOB_ARTIFACTS. With the url of a `lorajob web`, such as http://host:8080, all goes over
    HTTP, with `key` or LORAJOB_API_KEY. `redis_url` is the older name of `url`. Raises ServiceError
    if there is no service.
    """
    settings = load_settings()
    url = redis_url if url is None else url
    if url is None and artifacts is None:
        url = settings.url
    if url is not None and url.startswith(("http://", "https://")):
        if key is None and settings.api_key is not None:
            key = settings.api_key.get_secret_value()
        client = RemoteClient(url, key)
        client.api.get("")
        return client
    secret = None if url is None else SecretStr(url)
    settings = load_settings(redis_url=secret, artifacts=artifacts)
    jobs = Jobs(settings)
    with service_errors(settings):
        jobs.redis.ping()
    return Client(jobs)


def submit(
    language: str,
    corpus: PathOrUrl | None = None,
    base_model: PathOrUrl | None = None,
    *,
    preset: str = "default",
    sets: Iterable[str] = (),
    priority: Literal["high", "normal", "low"] = "normal",
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    **settings: object,
) -> Job:
    """Queue a job in the service that `connect()` finds, and return it. See `Client.submit`."""
    return connect().submit(
        language,
        corpus,
        base_model,
        preset=preset,
        sets=sets,
        priority=priority,
        name=name,
        tags=tags,
        **settings,
    )
