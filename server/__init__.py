"""`lorajob serve`: transcribes over HTTP with the interface of OpenAI's audio API.

web/ is another server: pages and a REST API for jobs. agents/ are tools for agents, which use that
API.

May import: client, tasks, worker and the library. Only cli imports it.
"""
