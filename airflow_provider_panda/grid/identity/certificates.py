"""TLS of an endpoint: whom it trusts, the certificate or proxy it shows, and until when that is good."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_panda.exceptions import GridAuthError
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.identity.tokens import utc_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """From when until when a certificate is good, with all that are in its file.

    :param begins: Unix time in seconds.
    :param ends: Unix time in seconds.
    :param subject: whose it is.
    """

    begins: float
    ends: float
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """TLS settings of an endpoint, made at one time.

    :param context: the settings.
    :param validity: of the certificate that is shown, or None where none is or it cannot be told.
    :param endpoint: whose.
    """

    context: ssl.SSLContext = field(repr=False)
    validity: Validity | None
    endpoint: PandaEndpoint

    def check(self, now: float) -> None:
        """Refuse to show a certificate that is not good.

        :param now: Unix time in seconds.
        :raises GridAuthError: it expired, or is not good yet.
        """
        validity, endpoint = self.validity, self.endpoint
        if validity is None:
            return
        if validity.ends <= now:
            raise GridAuthError(
                f"The certificate in the proxy file {endpoint.proxy_file} expired at {utc_time(validity.ends)}. "
                "Renew it, as with voms-proxy-init; the new file is used at once",
                url=endpoint.url,
            )
        if validity.begins > now:
            raise GridAuthError(
                f"The certificate in the proxy file {endpoint.proxy_file} is good only from "
                f"{utc_time(validity.begins)} on. Check the clock of this machine",
                url=endpoint.url,
            )


def identity_of(endpoint: PandaEndpoint) -> Identity:
    """Return the TLS settings of an endpoint with the certificate that it shows.

    :raises GridAuthError: the proxy or the CA certificates cannot be read, or the proxy is not good now.
    """
    validity = None
    if endpoint.auth is AuthKind.X509 and endpoint.proxy_file:
        validity = validity_of(Path(endpoint.proxy_file))
    return Identity(context=tls_context(endpoint), validity=validity, endpoint=endpoint)


def validity_of(path: Path) -> Validity | None:
    """Return when the certificates of a PEM file are good, all of them, or None if it has none that can be read."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        found = load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return None
    return Validity(
        begins=max(certificate.not_valid_before_utc.timestamp() for certificate in found),
        ends=min(certificate.not_valid_after_utc.timestamp() for certificate in found),
        subject=found[0].subject.rfc4514_string(),
    )


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
            trust_certifi(context)
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


def trust_certifi(context: ssl.SSLContext) -> None:
    """Add certifi's roots: a Python of its own build often finds no CA certificates of the system."""
    import certifi

    context.load_verify_locations(cafile=certifi.where())
