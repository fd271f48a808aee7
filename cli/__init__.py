"""The `lorajob` command: a command parses, calls one function and prints.

May import: tasks, worker and the library, most of it inside functions, so that --help is quick.
"""
