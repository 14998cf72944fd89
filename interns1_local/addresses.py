"""Which addresses are the public internet's: whoever follows an address that others name asks here."""

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
