"""Urls, and what of them may be shown: a login or a query may let whoever reads it in."""

import re

_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
# `user:password@` before a host; a secret with a slash in it ends what reads as the host
_LOGIN = re.compile(r"://(?:[^/?#\s]*|[^/?#\s\[:]*:(?!:|\d+(?:[/?#]|$))[^?\s]*)@")
# up to the text around it, or the next link of a chain such as zip://a::https://host/b?key=1
_QUERY = re.compile(r"\?\S*?(?=[.,;:)\]]*$|::[A-Za-z][\w+.-]*://)")


def is_url(text: object) -> bool:
    """Whether this is a url rather than a path."""
    return isinstance(text, str) and "://" in text


def has_login(url: str) -> bool:
    """Whether any link of the url names a user or a password."""
    return _LOGIN.search(url) is not None


def public(text: str) -> str:
    """A text whose urls have neither login nor query any more, for people, logs and webhooks."""
    return _URL.sub(lambda found: _QUERY.sub("?***", _LOGIN.sub("://***@", found[0])), text)
