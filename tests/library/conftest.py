"""Fixtures of the tests of the library: a web server with an archive, windows of exact lengths."""

import pytest

from lorajob.training import dataset
from tests.support.web_server import web

__all__ = ["exact_lengths", "web"]


@pytest.fixture
def exact_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut windows and labels are not rounded up, so that different ways to the loss agree."""
    monkeypatch.setattr(dataset, "FRAMES_TO", 1)
    monkeypatch.setattr(dataset, "LABELS_TO", 1)
