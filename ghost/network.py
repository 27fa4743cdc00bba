"""Names of hosts: how they are spelt, and which of them mean this machine."""

from __future__ import annotations

import ipaddress
import re

import idna

_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*"
                     r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")  # fmt: skip


def ascii_domain(domain: str) -> str:
    """Spell a domain in lower-case ASCII: `bücher.example` is `xn--bcher-kva.example`.

    :raises ValueError: it is no domain. See RFC 5891 and UTS 46.
    """
    if not domain.isascii():
        # Python's own codec speaks IDNA 2003, which takes straße.example for strasse.example.
        domain = idna.encode(domain, uts46=True).decode("ascii")
    if not _DOMAIN.match(domain) or len(domain) > 253:
        raise ValueError("no domain")
    return domain.lower()


def is_this_machine(host: str) -> bool:
    """Tell whether a host is this machine by its very name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
