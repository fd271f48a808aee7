"""The four Celery tasks and the pipeline that queues them."""
