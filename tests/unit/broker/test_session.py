"""A session against scripted brokers on loopback: the ones that a real ActiveMQ cannot be made to be."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_panda.broker.addresses import Address
from airflow_provider_panda.broker.endpoint import BrokerTLS
from airflow_provider_panda.broker.session import Session, Stop, Stopped
from airflow_provider_panda.exceptions import BrokerError

GUARD = 60.0


class ScriptedBroker:
    """Accepts one connection and answers frames by a function."""

    def __init__(self, answer: Callable[[bytes], bytes | None], context: ssl.SSLContext | None = None) -> None:
        self._answer, self._context = answer, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1], "localhost")
        self.frames: list[bytes] = []
        self.received = bytearray()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
        except OSError:
            return
        with connection:
            buffered = b""
            while True:
                try:
                    data = connection.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                self.received += data
                buffered += data
                *frames, buffered = buffered.split(b"\0")
                for frame in frames:
                    self.frames.append(frame.lstrip(b"\n"))
                    answer = self._answer(self.frames[-1])
                    if answer is None:
                        return
                    connection.sendall(answer)

    def close(self) -> None:
        self._listener.close()


def receipt_of(frame: bytes) -> bytes:
    """Return the RECEIPT that a frame asks for, if it does."""
    for line in frame.split(b"\n"):
        if line.startswith(b"receipt:"):
            return b"RECEIPT\nreceipt-id:" + line[8:] + b"\n\n\0"
    return b""


def polite(heart_beat: str) -> Callable[[bytes], bytes]:
    return lambda frame: (
        f"CONNECTED\nversion:1.2\nheart-beat:{heart_beat}\n\n\0".encode()
        if frame.startswith(b"CONNECT")
        else receipt_of(frame)
    )


@pytest.fixture
def stop() -> Iterator[Stop]:
    stop = Stop()
    yield stop
    stop.close()


def session_with(
    broker: ScriptedBroker, stop: Stop, *, heartbeat: float = 0.2, tls: BrokerTLS | None = None
) -> Session:
    return Session(broker.address, login="u", passcode="p", tls=tls, heartbeat=heartbeat, stop=stop)


def read_forever(session: Session) -> None:
    while True:
        session.read()


def test_login_asks_for_heartbeats(stop: Stop) -> None:
    broker = ScriptedBroker(polite("0,0"))
    session = session_with(broker, stop, heartbeat=2.5)
    session.open(GUARD)
    session.subscribe("results", "/topic/r", "internal_id LIKE 'af%'", GUARD)
    session.close()
    connect, subscribe = broker.frames[:2]
    assert connect.startswith(b"CONNECT\n")
    assert {b"heart-beat:2500,2500", b"host:localhost", b"login:u", b"passcode:p"} <= set(connect.split(b"\n"))
    assert {b"destination:/topic/r", b"id:results", b"ack:auto", b"selector:internal_id LIKE 'af%'"} <= set(
        subscribe.split(b"\n")
    )


def test_broker_without_heartbeats_is_asked_for_signs_of_life_and_still_gets_ours(stop: Stop) -> None:
    broker = ScriptedBroker(polite("0,0"))
    session = session_with(broker, stop)
    session.open(GUARD)
    until = time.monotonic() + 1.5
    turns = 0
    while time.monotonic() < until:
        session.read()
        turns += 1
    session.close()
    probes = [frame for frame in broker.frames if frame.startswith(b"BEGIN")]
    assert len(probes) >= 3, "asked more than once, and answered each time"
    assert turns < 60, "waits, and does not spin"


def test_broker_that_does_not_answer_signs_of_life_is_gone(stop: Stop) -> None:
    broker = ScriptedBroker(lambda frame: polite("0,0")(frame) if frame.startswith(b"CONNECT") else b"")
    session = session_with(broker, stop)
    session.open(GUARD)
    with pytest.raises(BrokerError, match="silent"):
        read_forever(session)
    session.close()


def test_broker_that_promised_heartbeats_and_is_silent_is_gone(stop: Stop) -> None:
    broker = ScriptedBroker(polite("200,200"))
    session = session_with(broker, stop)
    session.open(GUARD)
    with pytest.raises(BrokerError, match=r"silent for 0\.4 s"):
        read_forever(session)
    session.close()
    assert not [frame for frame in broker.frames if frame.startswith(b"BEGIN")]
    assert b"\0\n" in bytes(broker.received), "a heart-beat of ours"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"ERROR\nmessage:User name [u] or password is invalid.\n\nstack trace\0", "User name"),
        (b"ERROR\n\n\0", "ERROR"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n\0", "no answer to the login"),
        (b"x" * 70_000, "no STOMP"),
        (None, "closed the connection"),
        (b"", "no answer to the login"),
    ],
    ids=["refused", "bare error", "web server", "noise", "closed", "silent"],
)
def test_login_that_fails_says_why(answer: bytes | None, says: str, stop: Stop) -> None:
    session = session_with(ScriptedBroker(lambda frame: answer), stop)
    with pytest.raises(BrokerError, match=says):
        session.open(0.5)
    session.close()


def test_connection_refused(stop: Stop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    session = Session(
        Address("127.0.0.1", port, "localhost"), login=None, passcode=None, tls=None, heartbeat=1, stop=stop
    )
    with pytest.raises(BrokerError, match="Connection refused"):
        session.open(GUARD)
    session.close()


def test_stop_ends_a_read_from_another_thread(stop: Stop) -> None:
    session = session_with(ScriptedBroker(polite("0,0")), stop, heartbeat=300)
    session.open(GUARD)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopped):
        session.read()
    session.close()


def test_messages_before_the_receipt_of_a_subscription_are_kept(stop: Stop) -> None:
    early = b"MESSAGE\nsubscription:results\ninternal_id:af1\ncontent-length:2\n\n{}\0"
    broker = ScriptedBroker(lambda frame: (early if frame.startswith(b"SUBSCRIBE") else b"") + polite("0,0")(frame))
    session = session_with(broker, stop, heartbeat=5)
    session.open(GUARD)
    session.subscribe("results", "/topic/r", timeout=GUARD)
    assert [frame.body for frame in session.read()] == [b"{}"]
    session.close()


def test_a_flood_before_the_receipt_of_a_subscription_is_bounded(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_panda.broker.session.EARLY_LIMIT", 10_000)
    flood = b"MESSAGE\ncontent-length:1000\n\n" + b"x" * 1000 + b"\0"
    broker = ScriptedBroker(lambda frame: flood * 20 if frame.startswith(b"SUBSCRIBE") else polite("0,0")(frame))
    session = session_with(broker, stop, heartbeat=5)
    session.open(GUARD)
    with pytest.raises(BrokerError, match="before the receipt"):
        session.subscribe("results", "/topic/r", timeout=GUARD)
    session.close()


# --- TLS ------------------------------------------------------------------------------------------------------


def _certificate(folder: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None) -> Path:
    """Write a PEM file with certificate and key for a DNS name, signed by the issuer or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    path = folder / f"{name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    authority = _certificate(folder, "authority", None).read_bytes()
    key = serialization.load_pem_private_key(authority, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = (x509.load_pem_x509_certificate(authority), key)
    for name in ("localhost", "elsewhere.example.org", "client"):
        _certificate(folder, name, issuer)
    return folder


def _context(certificates: Path, server: str, *, client_wanted: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{server}.pem")
    if client_wanted:
        context.load_verify_locations(certificates / "authority.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _tls(certificates: Path, *, client: bool = False) -> BrokerTLS:
    return BrokerTLS(
        ca_file=str(certificates / "authority.pem"), cert_file=str(certificates / "client.pem") if client else None
    )


@pytest.mark.parametrize("client", [False, True])
def test_tls_connects_to_an_address_and_checks_the_name(client: bool, certificates: Path, stop: Stop) -> None:
    large = b"MESSAGE\ncontent-length:900000\n\n" + b"x" * 900_000 + b"\0"
    broker = ScriptedBroker(
        lambda frame: polite("0,0")(frame) + (large if frame.startswith(b"SUBSCRIBE") else b""),
        _context(certificates, "localhost", client_wanted=client),
    )
    session = session_with(broker, stop, heartbeat=5, tls=_tls(certificates, client=client))
    session.open(GUARD)
    session.subscribe("results", "/topic/r", timeout=GUARD)
    frames = []
    while not frames:
        frames = session.read(GUARD)
    assert [frame.size for frame in frames] == [900_000]
    session.close()


def test_tls_refuses_a_certificate_of_another_name(certificates: Path, stop: Stop) -> None:
    broker = ScriptedBroker(polite("0,0"), _context(certificates, "elsewhere.example.org", client_wanted=False))
    session = session_with(broker, stop, tls=_tls(certificates))
    with pytest.raises(BrokerError, match=r"certificate was not accepted.*check the CA file and the host name"):
        session.open(GUARD)
    session.close()


def test_tls_refuses_an_unknown_authority(certificates: Path, stop: Stop) -> None:
    broker = ScriptedBroker(polite("0,0"), _context(certificates, "localhost", client_wanted=False))
    session = session_with(broker, stop, tls=BrokerTLS())
    with pytest.raises(BrokerError, match="certificate was not accepted"):
        session.open(GUARD)
    session.close()


def test_tls_with_a_missing_file_names_the_trouble(certificates: Path, stop: Stop) -> None:
    broker = ScriptedBroker(polite("0,0"), _context(certificates, "localhost", client_wanted=False))
    session = session_with(broker, stop, tls=BrokerTLS(ca_file="/nowhere/ca.pem"))
    with pytest.raises(BrokerError, match="certificate file cannot be used"):
        session.open(GUARD)
    session.close()
    broker.close()
