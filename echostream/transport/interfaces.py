"""This machine's own addresses, as far as the standard library can tell."""

from __future__ import annotations

import socket

__all__ = ("local_addresses",)

# Documentation prefixes stand for "anywhere"; the multicast group is reached where there is no default route too.
_TARGETS = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "224.0.0.251"), (socket.AF_INET6, "2001:db8::1"))


def local_addresses() -> tuple[str, ...]:
    """Return the addresses that this machine would use to reach others; nothing is sent.

    Empty on a machine without network. Of several addresses of one kind it is the one of the default route.
    """
    found: dict[str, None] = {}
    for family, target in _TARGETS:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                found[str(probe.getsockname()[0])] = None
        except OSError:  # no route
            continue
    return tuple(found)
