"""Metrics and traces. No job depends on them.

May import: worker.records, worker.machine and what these may. Only the lifecycle, tasks,
`lorajob metrics` and the traces of `lorajob serve` import it.
"""
