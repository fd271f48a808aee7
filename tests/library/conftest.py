"""Fixtures of the tests of the library: a web server with an archive."""

from tests.support.web_server import web

__all__ = ["web"]
