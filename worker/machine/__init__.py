"""The GPUs and processes of one machine, and the workers that it starts.

May import: worker.records, worker.heartbeats and what these may, the library.
"""
