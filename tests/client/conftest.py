"""What the tests of the Python interface share: a `lorajob web` for clients of other machines."""

from tests.support.remote_web import web

__all__ = ["web"]
