"""Urls, and what of them may be shown: a login or a query may let whoever reads it in."""

import re
from pathlib import Path

_SCHEME = r"[A-Za-z][\w+.-]*://"
_CHAIN = re.compile(f"::(?={_SCHEME})")  # between the links of zip://a::https://host/b?key=1
# a host, an IPv6 address, a port: with anything else before the path an @ ends a login. So it does
# after `u:80/80@host/`, be it a port or a password; `host:80/a@b` has no path after such a login
_HOST = r"(?:\[[\dA-Fa-f:.]*(?:%\w*)?\]|[^/?#@:\[\]]*)(?::\d*(?![^?]*@[^?]*/))?(?:[/?#]|\Z)"
_LOGIN = re.compile(rf"://(?!{_HOST})(?:[^?]*|.*)@", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)
# in a text: in quotes up to the same quote before punctuation, else up to what ends a word
_URL = re.compile(
    rf"(?<=(['\"])){_SCHEME}\S+?(?=\1(?:[\s.,;:)\]}}]|\Z))"
    rf"|{_SCHEME}\S+?(?=['\">.,;:)\]]*(?:\s|\Z))"
)


def is_url(text: object) -> bool:
    """Whether this is a url rather than a path."""
    return isinstance(text, str) and "://" in text


def local_path(text: str) -> Path | None:
    """The path that this is; None for a url."""
    return None if is_url(text) else Path(text)


def has_login(url: str) -> bool:
    """Whether any link of the url names a user or a password."""
    return any(_LOGIN.search(link) for link in _CHAIN.split(url))


def public(url: str) -> str:
    """One url, whatever is in it, without login and query, for people, logs and webhooks; what is
    none stays as it is.
    """
    if not is_url(url):
        return url
    links = (_LOGIN.sub("://***@", link) for link in _CHAIN.split(url))
    return "::".join(_QUERY.sub("?***", link) for link in links)


def public_text(text: str, url: str) -> str:
    """What somebody says about `url`, with no other url but public ones. Spaces and quotes in
    `url` do no harm; in others they may end it.
    """
    return _URL.sub(lambda found: public(found[0]), text.replace(url, public(url)))
