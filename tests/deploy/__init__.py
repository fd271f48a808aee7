"""Tests of deploy/ and docs/: images, Kubernetes, Compose, and pages in a browser."""
