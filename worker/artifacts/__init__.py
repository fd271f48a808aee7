"""A job whose files lie in a bucket: fetched before a stage, pushed during and after it.

May import: worker.supervision, worker.machine, worker.records and what these may.
"""
