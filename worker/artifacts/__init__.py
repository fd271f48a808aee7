"""The files of a job, in a folder or a bucket: fetched before a stage, pushed during and after it.

May import: worker.supervision, worker.machine, worker.records and what these may.
"""
