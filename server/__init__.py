"""`lorajob serve`: speech in, text out, over HTTP as OpenAI's clients speak it.

May import: tasks, worker and the library. Only cli imports it.
"""
