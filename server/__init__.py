"""`lorajob serve`: transcribes over HTTP with the interface of OpenAI's audio API.

May import: tasks, worker and the library. Only cli imports it.
"""
