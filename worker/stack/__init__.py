"""`lorajob up`: Redis, workers and Flower on this machine, started anew when they die.

May import: worker.machine and what that may, the library.
"""
