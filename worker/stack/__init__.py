"""`lorajob up`: Redis, workers and Flower on this machine, restarted when they die.

May import: worker.machine and what that may, the library.
"""
