"""Fixtures of the tests of worker/: a record, a driver, a fleet of workers."""

from tests.support.fleet import expected, fleet
from tests.support.gpus import driver
from tests.support.records import job, records

__all__ = ["driver", "expected", "fleet", "job", "records"]
