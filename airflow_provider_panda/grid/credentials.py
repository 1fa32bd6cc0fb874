"""Who asks: tokens and proxies of an endpoint, read from it and from nowhere else."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_panda.exceptions import GridAuthError
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT without verifying it; empty for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        decoded = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def usable_token(text: str, *, source: str, url: str, now: float) -> str:
    """Return a token ready for a header.

    :param text: what the field or file holds.
    :param source: where it comes from, for messages.
    :param url: server it is for.
    :param now: Unix time in seconds.
    :raises GridAuthError: empty, malformed or expired; the message names the source, never the token.
    """
    token = text.strip()
    if not token:
        raise GridAuthError(f"The {source} is empty. Put an OIDC id token there", url=url)
    if not token.isascii() or not token.isprintable() or " " in token:
        raise GridAuthError(
            f"The {source} holds no token: it has blanks, line breaks or odd characters. Put the bare id token there",
            url=url,
        )
    expires = claims(token).get("exp")
    if isinstance(expires, (int, float)) and not isinstance(expires, bool) and expires <= now:
        when = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        raise GridAuthError(f"The token in the {source} expired at {when}. Renew it", url=url)
    return token


class Credentials:
    """The identity of one endpoint. Token files are read again when they change."""

    def __init__(self, endpoint: PandaEndpoint, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int, int], str] | None = None

    @property
    def reads_files(self) -> bool:
        """Whether :meth:`headers` reads from disk."""
        return self._endpoint.auth is AuthKind.TOKEN_FILE

    def token(self) -> str | None:
        """Return the token, or None for an endpoint without.

        :raises GridAuthError: missing, unreadable, malformed or expired.
        """
        endpoint = self._endpoint
        if endpoint.auth is AuthKind.TOKEN:
            text, source = endpoint.token or "", "connection field password (token)"
        elif endpoint.auth is AuthKind.TOKEN_FILE:
            text, source = self._file(), f"token file {endpoint.token_file}"
        else:
            return None
        return usable_token(text, source=source, url=endpoint.url, now=self._clock())

    def headers(self) -> dict[str, str]:
        """Return the headers that prove who asks: ``Authorization`` and ``Origin`` (the VO, mandatory with it)."""
        token = self.token()
        if token is None:
            return {}
        headers = {"Authorization": f"Bearer {token}"}
        if self._endpoint.vo:
            headers["Origin"] = self._endpoint.vo
        return headers

    def user_name(self) -> str | None:
        """Return the owner's name as PanDA makes it of the ``name`` claim, or None if there is none."""
        token = self.token()
        name = claims(token).get("name") if token else None
        return " ".join(word.capitalize() for word in name.split()) if isinstance(name, str) else None

    def _file(self) -> str:
        path = self._endpoint.token_file
        if not path:
            raise GridAuthError(
                "The connection field token_file is empty. Give the path of a token", url=self._endpoint.url
            )
        try:
            stat = Path(path).stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            with self._lock:
                if self._read is None or self._read[0] != stamp:
                    self._read = (stamp, Path(path).read_text(encoding="utf-8", errors="replace"))
                return self._read[1]
        except OSError as error:
            raise GridAuthError(
                f"The token file {path} cannot be read ({error.strerror}). Check the connection field token_file",
                url=self._endpoint.url,
            ) from None


def tls_stamp(endpoint: PandaEndpoint) -> tuple[int, int] | None:
    """Return what tells a renewed proxy file from the one before, or None where no proxy is used."""
    if endpoint.auth is not AuthKind.X509 or not endpoint.proxy_file:
        return None
    try:
        stat = Path(endpoint.proxy_file).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def tls_context(endpoint: PandaEndpoint) -> ssl.SSLContext:
    """Return the TLS settings of an endpoint.

    :raises GridAuthError: the proxy or the CA certificates cannot be read.
    """
    try:
        if endpoint.ca_path is None:
            context = ssl.create_default_context()
            _trust_certifi(context)
        elif Path(endpoint.ca_path).is_dir():
            context = ssl.create_default_context(capath=endpoint.ca_path)
        else:
            context = ssl.create_default_context(cafile=endpoint.ca_path)
    except (OSError, ssl.SSLError) as error:
        raise GridAuthError(
            f"The CA certificates {endpoint.ca_path} cannot be read ({error}). Check the connection field ca_path",
            url=endpoint.url,
        ) from None
    if not endpoint.verify_host:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if endpoint.auth is AuthKind.X509:
        path = endpoint.proxy_file
        try:
            if not path:
                raise FileNotFoundError(2, "no path given")
            # An encrypted key must fail here: without a password of ours OpenSSL would ask on the terminal.
            context.load_cert_chain(certfile=path, keyfile=path, password="")
        except (OSError, ssl.SSLError) as error:
            raise GridAuthError(
                f"The proxy file {path} cannot be used ({error}). "
                "Renew it, and check the connection field proxy_file: one PEM file with certificate and key",
                url=endpoint.url,
            ) from None
    return context


def _trust_certifi(context: ssl.SSLContext) -> None:
    """Add certifi's roots: a Python of its own build often finds no CA certificates of the system."""
    import certifi

    context.load_verify_locations(cafile=certifi.where())
