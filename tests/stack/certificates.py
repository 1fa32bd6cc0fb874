"""A certificate authority of the tests' own: certificates for servers and users, good, expired or of another's name."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID


@dataclass
class Authority:
    """Signs certificates; its own is in ``ca_file``.

    :param folder: where files go.
    """

    folder: Path

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("Test CA")
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1000))
            .not_valid_after(now + timedelta(days=1000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                    key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        self.ca_file = self.folder / "ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        host: str | None = None,
        begins: timedelta = timedelta(days=-500),
        ends: timedelta = timedelta(days=300),
    ) -> Path:
        """Return a PEM file with a certificate and its key.

        :param name: common name.
        :param host: DNS name or IP address of a server.
        :param begins: from now.
        :param ends: from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        file = self.folder / f"{name}.pem"
        file.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        file.chmod(0o600)
        return file

    def keystore(self, file: Path, passcode: str) -> Path:
        """Return a PKCS12 file with a certificate and its key, as Java reads them; one that is there is replaced.

        :param file: PEM file of :meth:`issue`.
        :param passcode: password of the store.
        """
        pem = file.read_bytes()
        key = load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        store = self.folder / "keystore.p12"
        store.write_bytes(
            pkcs12.serialize_key_and_certificates(
                b"server", key, x509.load_pem_x509_certificate(pem), None, BestAvailableEncryption(passcode.encode())
            )
        )
        return store

    def truststore(self, passcode: str) -> Path:
        """Return a PKCS12 file with the authority's certificate, as Java trusts it."""
        certificate = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        trusted = [pkcs12.PKCS12Certificate(certificate, b"ca")]
        store = self.folder / "truststore.p12"
        store.write_bytes(pkcs12.serialize_java_truststore(trusted, BestAvailableEncryption(passcode.encode())))
        return store

    def server(self, file: Path, *, clients: bool = False) -> ssl.SSLContext:
        """Return the TLS settings of a server.

        :param file: its certificate and key.
        :param clients: whether it asks clients for a certificate.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        if clients:
            context.load_verify_locations(cafile=self.ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
