"""Tests of tasks/: what is queued, in which order, and what becomes of it."""
