"""Refuses web addresses that only machines of a cloud answer: link-local and metadata services.

A corpus's url comes from a user. A worker in a cloud would fetch the credentials of its machine
from such an address. The check is made on every connection, so that it covers names that resolve
to such an address, and redirects.
"""

import ipaddress
import os
from typing import Any

from fsspec.implementations.http import aiohttp

from lorajob.errors import UsageError

# Metadata services at addresses that are not link-local: AWS (IPv6), Alibaba.
METADATA = {ipaddress.ip_address(it) for it in ("fd00:ec2::254", "100.100.100.200")}


def is_refused(address: str) -> bool:
    """Whether an IP address is link-local or a metadata service's."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    return found.is_link_local or found in METADATA


def allowed_hosts() -> set[str]:
    """The hosts of `LORAJOB_ALLOWED_HOSTS`, which are never refused."""
    return {it.strip().lower() for it in os.environ.get("LORAJOB_ALLOWED_HOSTS", "").split(",")}


class GuardedConnector(aiohttp.TCPConnector):  # type: ignore[misc]  # fsspec has no types
    """Connects to no refused address."""

    async def _resolve_host(self, host: str, *args: Any, **kwargs: Any) -> Any:
        found = await super()._resolve_host(host, *args, **kwargs)
        bad = [it["host"] for it in found if is_refused(it["host"])]
        if bad and host.lower() not in allowed_hosts():
            raise UsageError(
                f"{host} is at {bad[0]}, a link-local or metadata address, which is refused; "
                "LORAJOB_ALLOWED_HOSTS names hosts that are allowed"
            )
        return found


async def guarded_client(**kwargs: Any) -> Any:
    """A session of aiohttp for fsspec, as its `get_client`."""
    return aiohttp.ClientSession(connector=GuardedConnector(), **kwargs)
