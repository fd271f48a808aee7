"""The Celery app, records in Redis, the child process of a stage, machines, metrics.

May import: the library. Its folders import downwards only, as docs/how-it-works.md lists them.
"""
