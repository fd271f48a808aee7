"""The application that Flower runs on. All of Flower's pages then ask for the password.

Flower itself shows `/metrics` and `/healthcheck` to everyone; the former names tasks and workers.
`deploy/alive.py flower` is the probe that knows the password.
"""

from flower.views import BaseHandler

from lorajob.worker.app import app

__all__ = ["app"]


def ask_first(handler: BaseHandler) -> None:
    """Refuse a request without the password, before any page handles it."""
    if not handler.get_current_user():  # it raises an error for a wrong password
        handler.send_error(401)


BaseHandler.prepare = ask_first
