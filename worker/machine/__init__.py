"""What one machine offers and starts: GPUs, processes, workers as the queues need them.

May import: worker.records, worker.heartbeats and what these may, the library.
"""
