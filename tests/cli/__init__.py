"""Tests of cli/: the command as a user runs it."""
