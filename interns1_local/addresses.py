"""Which addresses are the public internet's, and which are this machine: whoever follows or trusts one asks here."""

from __future__ import annotations

import ipaddress


def is_public(text: str) -> bool:
    """Whether an IP address leads out of this machine and its own networks."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        # Forms that carry an IPv4 address, which is where the packet would go.
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return inner.is_global and address.is_global
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF).is_global
    return address.is_global and not address.is_multicast


def is_loopback(text: str) -> bool:
    """Whether an IP address is this machine's own, IPv4 in IPv6 too; False for what is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_this_machine(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    return host == "localhost" or is_loopback(host)
