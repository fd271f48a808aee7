"""How a webhook's url is opened: within a time, however slowly its server goes on answering."""

import http.client
import socket
import threading
import urllib.request
from contextlib import suppress
from typing import Any

ANSWER_SECONDS = 10.0  # from the connection to the end of the answer's headers


class _Cut:
    """A connection that is cut in the middle of its answer, where that takes too long: a timeout is
    of each read, and a server that sends a byte now and then would hold its client for ever.
    """

    sock: socket.socket

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]  # of the connection that this is mixed into
        self._timer = threading.Timer(ANSWER_SECONDS, _shut, (self.sock,))
        self._timer.daemon = True
        self._timer.start()

    def getresponse(self) -> http.client.HTTPResponse:
        try:  # of the same connection
            response: http.client.HTTPResponse = super().getresponse()  # type: ignore[misc]
        finally:
            self._timer.cancel()
        return response


class _Http(_Cut, http.client.HTTPConnection):
    pass


class _Https(_Cut, http.client.HTTPSConnection):
    pass


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Http, request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Https, request)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would go on as a GET without its body, and to whom the answer says."""

    def redirect_request(self, *_: Any) -> None:
        return None  # the answer is an error, then


opener = urllib.request.build_opener(_NoRedirects, _HttpHandler, _HttpsHandler)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        sock.shutdown(socket.SHUT_RDWR)
