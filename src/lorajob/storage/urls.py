"""Urls, and how to show them without secrets. Logins and queries may contain secrets."""

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorajob.spec import JobSpec

# Prefixes of data sets that a library fetches by name. They hold no secrets.
CATALOGUES = ("hf:", "mdc:")
_SCHEME = r"[A-Za-z][\w+.-]*://"
# Separates the links of a chained url, such as zip://a::https://host/b?key=1.
_CHAIN = re.compile(f"::(?={_SCHEME})")
# Matches a host or an IPv6 address, and a port. If something else stands before the path, an @ ends
# a login. In `u:80/80@host/` the 80 may be a port or a password, so the @ counts as the end of a
# login. In `host:80/a@b` no path follows, so there is no login.
_HOST = r"(?:\[[\dA-Fa-f:.]*(?:%\w*)?\]|[^/?#@:\[\]]*)(?::\d*(?![^?]*@[^?]*/))?(?:[/?#]|\Z)"
_LOGIN = re.compile(rf"://(?!{_HOST})(?:[^?]*|.*)@", re.DOTALL)
_QUERY = re.compile(r"\?.*", re.DOTALL)
# Matches a url in a text. A quoted url ends at the same quote before punctuation, any other at the
# end of the word.
_URL = re.compile(
    rf"(?<=(['\"])){_SCHEME}\S+?(?=\1(?:[\s.,;:)\]}}]|\Z))"
    rf"|{_SCHEME}\S+?(?=['\">.,;:)\]]*(?:\s|\Z))"
)


def is_url(text: object) -> bool:
    """Whether `text` is a url, or names a data set of a catalogue, and is not a path."""
    return isinstance(text, str) and ("://" in text or is_named(text))


def is_named(text: str) -> bool:
    """Whether `text` names a data set of a catalogue, such as hf:OWNER/NAME."""
    return text.startswith(CATALOGUES) and "://" not in text


def local_path(text: str) -> Path | None:
    """`text` as a path; None for a url."""
    return None if is_url(text) else Path(text)


def has_login(url: str) -> bool:
    """Whether any link of a chained url contains a user or a password."""
    return any(_LOGIN.search(link) for link in _CHAIN.split(url))


def public(url: str) -> str:
    """A url without login and query, for people, logs and webhooks. Other text stays as it is."""
    if not is_url(url) or is_named(url):
        return url
    links = (_LOGIN.sub("://***@", link) for link in _CHAIN.split(url))
    return "::".join(_QUERY.sub("?***", link) for link in links)


def public_spec(spec: "JobSpec") -> "JobSpec":
    """The settings of a job with all urls in them public: corpora, base model, text, glossary."""
    files = {"text": spec.evaluate.text, "glossary": spec.evaluate.glossary}
    shown = {name: None if place is None else public(place) for name, place in files.items()}
    changes = {
        "base_model": public(spec.base_model),
        "evaluate": spec.evaluate.model_copy(update=shown),
    }
    return spec.with_places(public).model_copy(update=changes)


def public_text(text: str, url: str) -> str:
    """A message about `url`, with all urls in it made public.

    `url` itself may contain spaces and quotes. In any other url they may end it.
    """
    return _URL.sub(lambda found: public(found[0]), text.replace(url, public(url)))


def is_loopback(host: str) -> bool:
    """True for localhost and for addresses that only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
