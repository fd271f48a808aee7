"""Metrics and traces. No job depends on them.

May import: worker.records, worker.machine and what these may. Only the lifecycle, tasks and
`lorajob metrics` import it.
"""
