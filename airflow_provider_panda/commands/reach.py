"""Steps on the way to a server: its name, its port, its certificate, its clock."""

from __future__ import annotations

import concurrent.futures
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from airflow_provider_panda.commands.steps import Told, ok, skipped, warn, wrong
from airflow_provider_panda.exceptions import GridUnreachableError
from airflow_provider_panda.grid.addresses import encrypted_or_local, reason
from airflow_provider_panda.grid.endpoint import PandaEndpoint
from airflow_provider_panda.grid.identity.certificates import tls_context

PATIENCE: Final = 10.0
"""Seconds for a name server, for a connection, and for a handshake."""

CLOCK_WARN: Final = 30.0
CLOCK_WRONG: Final = 300.0
"""Seconds off at which tokens are refused as not yet good or expired."""

DAYS_WARN: Final = 14
"""Days left of a server's certificate at which its operators should hear of it."""


def addresses_of(endpoint: PandaEndpoint) -> list[tuple[str, int, bool]]:
    """Return host, port and whether it is TLS of the server and of its cache, each once."""
    found: dict[tuple[str, int, bool], None] = {}
    for url in filter(None, (endpoint.url, endpoint.cache_url)):
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        found[(parts.hostname or "", parts.port or (443 if secure else 80), secure)] = None
    return list(found)


def network(endpoint: PandaEndpoint) -> Told:
    """Resolve names and open connections."""
    texts = []
    for host, port, _ in addresses_of(endpoint):
        began = time.monotonic()
        opened = _open(host, port)
        address = opened.getpeername()[0]
        opened.close()
        texts.append(f"{host} is {address}, port {port} answers ({1000 * (time.monotonic() - began):.0f} ms)")
    return ok("; ".join(texts))


def tls(endpoint: PandaEndpoint) -> Told:
    """Shake hands, and look at the certificates."""
    told = []
    for host, port, secure in addresses_of(endpoint):
        if not secure:
            local = encrypted_or_local(f"http://{host if ':' not in host else f'[{host}]'}")
            told.append(
                skipped(f"plain http to this machine, port {port}")
                if local
                else warn(f"plain http to {host}: whoever listens can take the token. Use https")
            )
            continue
        told.append(certificate_told(host, _peer_certificate(endpoint, host, port), verified=endpoint.verify_host))
    worst = max(told, key=lambda one: one.verdict.value == "warn")
    return Told(worst.verdict, "; ".join(one.text for one in told))


def certificate_told(host: str, ends: float, *, verified: bool, now: float | None = None) -> Told:
    """Return what to say of a server's certificate.

    :param ends: Unix time in seconds at which it expires.
    :param verified: whether it was verified.
    """
    days = int((ends - (time.time() if now is None else now)) // 86400)
    text = f"the certificate of {host} is good for {days} more days"
    if not verified:
        return warn(f"the certificate of {host} is not verified (verify_host is off). Give its CA as ca_path instead")
    return warn(f"{text}. Tell its operators") if days < DAYS_WARN else ok(f"{text}, and of that host")


def clock(date: str, before: float, after: float) -> Told:
    """Compare a server's clock with ours.

    :param date: Date header of its answer.
    :param before: our Unix time in seconds before the request.
    :param after: the same after the answer.
    """
    try:
        theirs = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return skipped("the server does not tell its time")
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=UTC)
    # The header has whole seconds, cut off, and the answer was on its way for a while.
    early, late = before - theirs.timestamp() - 1.0, after - theirs.timestamp()
    off = 0.0 if early <= 0 <= late else early if early > 0 else late
    if abs(off) <= CLOCK_WARN:
        return ok("this machine and the server agree" if abs(off) <= 2 else f"{abs(off):.0f} s off, which does no harm")
    ours = datetime.fromtimestamp(after, UTC).strftime("%H:%M:%S")
    text = (
        f"this machine's clock ({ours} UTC) is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the server's "
        f"({theirs.astimezone(UTC).strftime('%H:%M:%S')}); tokens are then taken for expired or not good yet. "
        "Synchronise it (NTP), or tell the server's operators"
    )
    return wrong(text) if abs(off) > CLOCK_WRONG else warn(text)


def _open(host: str, port: int) -> socket.socket:
    """Return a connection to the first of a host's addresses that takes one."""
    problems = []
    for family, kind, protocol, _, address in _resolve(host, port):
        opened = socket.socket(family, kind, protocol)
        opened.settimeout(PATIENCE)
        try:
            opened.connect(address)
        except OSError as error:
            opened.close()
            problems.append(f"{address[0]}: {error.strerror or error}")
        else:
            return opened
    raise GridUnreachableError(
        f"Port {port} of {host} does not answer ({'; '.join(problems)}). Check host and port of the connection, that "
        "the server runs, and firewalls on the way"
    )


def _resolve(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    """Look a name up, in a thread: a dead name server holds it for minutes."""
    found: concurrent.futures.Future[list[tuple[int, int, int, str, tuple[str, int]]]] = concurrent.futures.Future()

    def look() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))  # type: ignore[arg-type]
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=look, name="panda-check-name", daemon=True).start()
    try:
        return found.result(PATIENCE)
    except TimeoutError:
        problem = f"no name server answered within {PATIENCE:g} s"
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or str(error)
    raise GridUnreachableError(f"The name {host} cannot be resolved ({problem}). Check the host of the connection")


def _peer_certificate(endpoint: PandaEndpoint, host: str, port: int) -> float:
    """Return the Unix time at which the certificate of a server expires that we trust."""
    from cryptography.x509 import load_der_x509_certificate

    context = tls_context(endpoint)
    try:
        with _open(host, port) as opened, context.wrap_socket(opened, server_hostname=host) as secured:
            shown = secured.getpeercert(binary_form=True)
    except (OSError, ssl.SSLError) as error:
        raise GridUnreachableError(f"No TLS with {host}:{port}: {reason(error)}") from None
    if shown is None:
        raise GridUnreachableError(f"{host}:{port} shows no certificate")
    return load_der_x509_certificate(shown).not_valid_after_utc.timestamp()
