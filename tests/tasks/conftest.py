"""Fixtures of the tests of tasks/: the jobs of a Redis without workers, and small corpora."""

from tests.support.batches import data, env, jobs
from tests.support.web_server import web

__all__ = ["data", "env", "jobs", "web"]
