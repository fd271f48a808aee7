"""The four Celery tasks, what a user does with jobs and batches, the reconciler, notifications.

May import: worker and the library. No command is known here.
"""
