"""Tests of worker/: records, supervision, files in a bucket, machines, metrics."""
