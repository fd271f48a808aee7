"""Fixtures of the tests of tasks/: the jobs of a Redis without workers, and small corpora."""

from tests.support.batches import data, env, jobs

__all__ = ["data", "env", "jobs"]
