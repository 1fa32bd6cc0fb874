"""Broker addresses: what names resolve to, and which connections that calls for."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from airflow_provider_panda.exceptions import BrokerError


@dataclass(frozen=True, slots=True)
class Address:
    """One broker: equal if IP address and port are, by whatever name it was found.

    :param ip: IP address.
    :param port: TCP port.
    :param name: configured name, which its TLS certificate has to show.
    """

    ip: str
    port: int
    name: str = field(compare=False)

    def __str__(self) -> str:
        where = self.name if self.name == self.ip else f"{self.name}({self.ip})"
        return f"{where}:{self.port}"


def resolve(name: str, port: int) -> tuple[Address, ...]:
    """Return every address of a name. Blocks.

    Only the IPv4 addresses if there are any, as iDDS's own subscribers do (facts/idds.md section 5): a broker that
    listens on both families would send everything twice.

    :raises BrokerError: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BrokerError(
            f"the broker name {name!r} does not resolve ({error}). Check the host field of the connection and DNS.",
            address=f"{name}:{port}",
        ) from None
    return choose_family(name, port, ((family, str(address[0])) for family, _, _, _, address in found))


def choose_family(name: str, port: int, found: Iterable[tuple[int, str]]) -> tuple[Address, ...]:
    """Return the IPv4 addresses of ``(family, ip)`` pairs, or the IPv6 ones if there are no others; each once."""
    pairs = list(found)
    families = {family for family, _ in pairs}
    wanted = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    ips = dict.fromkeys(ip for family, ip in pairs if family == wanted)
    return tuple(Address(ip, port, name) for ip in ips)


def plan(current: Mapping[Address, bool], resolved: Collection[Address]) -> tuple[list[Address], list[Address]]:
    """Return which connections to open and which to close.

    One that listens is kept although its address is no longer resolved: some name servers answer with a part of an
    alias in turns, and a broker that really left closes the connection itself.

    :param current: addresses with a connection, and whether it listens.
    :param resolved: what the configured names resolve to now; empty (nothing resolves) changes nothing.
    """
    if not resolved:
        return [], []
    opened = [address for address in dict.fromkeys(resolved) if address not in current]
    closed = [address for address, listens in current.items() if not listens and address not in resolved]
    return opened, closed
