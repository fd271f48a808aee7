"""What surrounds the child process of a stage: start, watch, stop, and how it ended.

May import: worker.records and what that may, worker.machine, the library.
"""
