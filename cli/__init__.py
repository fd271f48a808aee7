"""The `lorajob` command. Each command parses its options, calls one function and prints.

May import: tasks, worker and the library, mostly inside functions, so that --help is fast.
"""
