"""The worker's STOMP: frames, several addresses, bounded retries, and never an exception."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_panda.broker.endpoint import BrokerEndpoint, BrokerTLS
from airflow_provider_panda.payload import publish
from airflow_provider_panda.payload.delivery import broker_settings, user_secret


@given(
    st.dictionaries(st.text(min_size=1).filter(lambda name: name != "content-length"), st.text()),
    st.binary(min_size=1, max_size=200),
)
def test_frames_survive(headers: dict[str, str], body: bytes) -> None:
    safe = {k: v for k, v in headers.items() if max(k + v) < "\ud800" or max(k + v) > "\udfff"}
    data = publish.encode_frame("SEND", safe, body)
    command, back, content = publish.decode_frame(b"\n\r\n" + data) or ("", {}, b"")
    assert (command, content) == ("SEND", body)
    assert back.pop("content-length") == str(len(body))
    assert back == safe
    assert all(publish.decode_frame(data[:cut]) is None for cut in range(3, len(data)))


def test_connect_is_not_escaped() -> None:
    assert b"passcode:a:b" in publish.encode_frame("CONNECT", {"passcode": "a:b"})


def test_something_else_answers() -> None:
    with pytest.raises(publish.ProtocolError):
        publish.decode_frame(b"\x15\x03\x01")
    with pytest.raises(publish.ProtocolError):
        publish.decode_frame(b"A" * (publish.FRAME_LIMIT + 1))


Answer = Callable[[socket.socket, str, dict[str, str], bytes], None]


@contextmanager
def broker(answer: Answer) -> Iterator[int]:
    """A broker on a free port that answers each frame with ``answer``."""
    server = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                data = b""
                while chunk := connection.recv(65536):
                    data += chunk
                    while data.strip(b"\r\n\0") and (frame := publish.decode_frame(data)) is not None:
                        data = b"" if frame[0] != "CONNECT" else data.partition(b"\0")[2]
                        try:
                            answer(connection, *frame)
                        except OSError:
                            break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        stopping.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def friendly(received: list[tuple[str, dict[str, str], bytes]]) -> Answer:
    def answer(connection: socket.socket, command: str, headers: dict[str, str], body: bytes) -> None:
        received.append((command, headers, body))
        if command == "CONNECT":
            connection.sendall(b"CONNECTED\nversion:1.2\n\n\0\n")
        elif command == "SEND":
            connection.sendall(publish.encode_frame("RECEIPT", {"receipt-id": headers["receipt"]}))

    return answer


def settings(*ports: int) -> dict[str, object]:
    addresses = [["127.0.0.1", port] for port in ports]
    return {"addresses": addresses, "login": "u", "passcode": "p:w", "tls": False, "destination": "/topic/x"}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_message_and_headers_arrive_at_the_address_that_works() -> None:
    received: list[tuple[str, dict[str, str], bytes]] = []
    with broker(friendly(received)) as port:
        outcome = publish.publish(settings(closed_port(), port), {"internal_id": "af:1\n"}, '{"a":"ü"}')
    assert outcome.ok, outcome
    assert outcome.address == f"127.0.0.1:{port}"
    connect, send = received[0], received[1]
    assert (connect[1]["login"], connect[1]["passcode"], connect[1]["heart-beat"]) == ("u", "p:w", "0,0")
    assert send[1]["destination"] == "/topic/x"
    assert send[1]["internal_id"] == "af:1\n"
    assert send[2] == '{"a":"ü"}'.encode()


def test_a_refused_login_is_told_without_the_password() -> None:
    def refuse(connection: socket.socket, command: str, headers: dict[str, str], body: bytes) -> None:
        connection.sendall(publish.encode_frame("ERROR", {"message": "User name or password is invalid"}))

    with broker(refuse) as port:
        outcome = publish.publish(settings(port), {}, "x", total_seconds=0.5)
    assert not outcome.ok
    assert "ERROR: User name or password is invalid" in outcome.problem
    assert "p:w" not in str(outcome)


def test_a_broker_that_comes_later_gets_it() -> None:
    received: list[tuple[str, dict[str, str], bytes]] = []
    calls = []

    def answer(connection: socket.socket, command: str, headers: dict[str, str], body: bytes) -> None:
        calls.append(command)
        if len(calls) == 1:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            friendly(received)(connection, command, headers, body)

    with broker(answer) as port:
        outcome = publish.publish(settings(port), {}, "x")
    assert outcome.ok
    assert outcome.attempts == 2


@pytest.mark.parametrize(
    "bad", [{}, {"addresses": None}, {"addresses": [["h"]]}, {"addresses": [], "destination": "x"}], ids=str
)
def test_wrong_settings_never_raise(bad: dict[str, object]) -> None:
    assert not publish.publish(bad, {}, "x", total_seconds=0.2).ok


def test_unresolved_name_is_told() -> None:
    broken = {**settings(), "addresses": [["no-such-host.invalid", 1]]}
    assert "not resolved" in publish.publish(broken, {}, "x", total_seconds=0.2).problem


def test_workers_get_the_publish_only_login(tmp_path: object) -> None:
    endpoint = BrokerEndpoint(addresses=(("h", 1),), login="reader", passcode="r")
    assert broker_settings(endpoint)["login"] == "reader"
    from pathlib import Path

    authority = Path(str(tmp_path)) / "ca.pem"
    authority.write_text("PEM")
    endpoint = BrokerEndpoint(
        addresses=(("h", 1),),
        login="reader",
        passcode="r-secret",
        publisher_login="worker",
        publisher_passcode="w",
        tls=BrokerTLS(ca_file=str(authority), key_file="/private"),
    )
    text = user_secret("instance", endpoint)
    assert '"login": "worker"' in text
    assert '"ca": "PEM"' in text
    assert "r-secret" not in text
    assert "private" not in text
