"""Runs the child process of a stage: starts, watches and stops it, and tells how it ended.

May import: worker.records and what that may, worker.machine, the library.
"""
