"""Addresses of servers as messages may show them, and why one could not be reached."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit


def bare(url: str) -> str:
    """Return a URL without query, fragment and credentials, for messages."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def base_url(url: str) -> str:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def encrypted_or_local(url: str) -> bool:
    """Whether what is sent to a URL is encrypted, or does not leave this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def reason(error: BaseException) -> str:
    """Return why an exchange failed, in words that say what to do."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its TLS certificate is not trusted ({cause.verify_message}). "
                "Give its CA in the connection field ca_path"
            )
    for cause in chain:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or cause}). Check scheme and port of the server URL, and the proxy file"
        if isinstance(cause, socket.gaierror):
            return "its name cannot be resolved. Check the host of the connection"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused. Check host and port of the connection, and that the server runs"
    text = str(error) or type(error).__name__
    return f"{text}. Check the network and the server URL, or try again"


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException] = [error]
    while todo:
        cause = todo.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        if isinstance(cause, BaseExceptionGroup):
            todo.extend(cause.exceptions)
        todo.extend(linked for linked in (cause.__cause__, cause.__context__) if linked is not None)
