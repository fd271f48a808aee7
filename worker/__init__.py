"""The Celery app, job records in Redis, the supervisor of a stage, and the stack on one machine."""
