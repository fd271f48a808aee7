"""Tests of src/lorajob: the stages and their parts, without a queue."""
