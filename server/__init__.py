"""`lorajob serve`: transcribes over HTTP with the interface of OpenAI's audio API.

web/ is another server: pages and a REST API for jobs.

May import: client, tasks, worker and the library. Only cli imports it.
"""
