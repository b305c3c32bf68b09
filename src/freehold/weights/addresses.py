"""Which web addresses may be asked for bytes, judged by form alone.

https everywhere; plain http only from this machine to itself; never a password.
`sources.http` holds every request and every redirect to the same rules.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

from freehold.domain.errors import InvalidReference
from freehold.domain.hosts import is_loopback

# Only ASCII hosts: letters that merely look alike are another host.
_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/?#]*@)?"
    r"(?P<host>[a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])(?P<port>:[0-9]{1,5})?"
    r"(?P<path>/[^?#\s]*)?(?:\?[^#\s]*)?",
    re.ASCII | re.IGNORECASE,
)
_MAX_PORT = 65535


def require_address(text: str) -> str:
    """Check an address without a fragment; returns its path, decoded.

    Raises `InvalidReference`, which quotes no password.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InvalidReference("This is not a well-formed https address.")
    scheme, host, path = match["scheme"].lower(), match["host"].lower(), match["path"] or ""
    bare = host.strip("[]")
    reason = objection(scheme, bare, private=match["user"] is not None)
    if reason is not None:
        raise InvalidReference(f"{scheme}://{host} {reason}.")
    if not _is_host(host) or int((match["port"] or ":0")[1:]) > _MAX_PORT:
        raise InvalidReference(f"{scheme}://{host} has no valid host or port.")
    if {".", ".."} & set(path.split("/")):
        raise InvalidReference(f"The path at {scheme}://{host} must not contain '.' or '..'.")
    return unquote(path)


def objection(scheme: str, host: str, *, private: bool) -> str | None:
    """Why an address may not be asked, to follow its name; ``private``: it names a user."""
    if scheme not in ("https", "http") or not host:
        return "is not an https address"
    if private:
        return "carries a user name or password in the address"
    if scheme == "http" and not is_loopback(host):
        return "is not encrypted; only https is used beyond this machine"
    return None


def _is_host(host: str) -> bool:
    numeric = host.rstrip(".").rpartition(".")[2].isdigit()
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif numeric:
            ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
