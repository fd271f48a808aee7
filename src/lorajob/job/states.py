"""The words for the states of jobs and stages.

Commands, JSON, metrics, pages and the Python interface use these words and no others; mypy checks
comparisons with them. docs/formats.md explains them. Celery's own states, which Flower shows, are
those of messages, not of jobs.
"""

from typing import Literal, get_args

# A batch has them, too, except for rejected.
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "rejected"]
# waiting: an earlier stage comes first
StageState = Literal["queued", "waiting", "running", "succeeded", "failed", "cancelled"]

JOB_STATES: tuple[JobState, ...] = get_args(JobState)
STAGE_STATES: tuple[StageState, ...] = get_args(StageState)
# Only a user continues a job in one of these states.
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "cancelled", "rejected")
