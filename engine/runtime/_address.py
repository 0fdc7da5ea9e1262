"""Where a server of the engine listens."""

from __future__ import annotations

from typing import NamedTuple

_LOOPBACK = "127.0.0.1"
_PORT_MAX = 65535


class Address(NamedTuple):
    """A host and a port; port 0 is any that is free.

    >>> str(Address.parse("9090")), str(Address.parse("[::1]:0"))
    ('127.0.0.1:9090', '[::1]:0')
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """What ``PORT`` or ``HOST:PORT`` names; without a host, this machine's own address.

        An address of IPv6 stands in square brackets.

        Raises:
            ValueError: It is neither.
        """
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        well_formed = port.isascii() and port.isdigit() and len(port) < 10
        if not well_formed or int(port) > _PORT_MAX or (colon and not host):
            msg = "must be a port, such as 9090, or a host and a port, such as localhost:9090"
            raise ValueError(msg)
        return cls(host or _LOOPBACK, int(port))

    def __str__(self) -> str:
        """As in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
