"""The four Celery tasks, what users do with jobs and batches, the reconciler, notifications.

May import: worker and the library.
"""
