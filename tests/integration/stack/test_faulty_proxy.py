"""The faulty proxy does what it says, seen with plain sockets and http.client."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest

from tests.stack.faulty_proxy import Fault, FaultyProxy, Kind, RemoteProxy, faulty_proxy
from tests.stack.scripted_panda import ScriptedPanda, envelope, scripted_panda

PATH = "/api/v1/task/submit"


@pytest.fixture
def server() -> Iterator[ScriptedPanda]:
    with scripted_panda() as panda:
        panda.on("task/submit", envelope(7, message="first"), envelope(8, message="second"))
        yield panda


@pytest.fixture
def proxy(server: ScriptedPanda) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.url) as running:
        yield running


def ask(proxy: FaultyProxy, method: str = "GET", body: bytes | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=20)
    try:
        connection.request(method, PATH, body)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_without_a_fault_it_forwards(proxy: FaultyProxy, server: ScriptedPanda) -> None:
    response, body = ask(proxy, "POST", b"{}")
    assert response.status == 200
    assert json.loads(body) == {"success": True, "message": "first", "data": 7}
    assert server.calls("task/submit")[0].body == b"{}"
    assert [passed.forwarded for passed in proxy.calls("submit")] == [True]


def test_refused_connections_and_the_same_port_afterwards(proxy: FaultyProxy) -> None:
    kept = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=20)
    kept.request("GET", PATH)
    kept.getresponse().read()
    proxy.add(Fault(Kind.REFUSE))
    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    assert kept.sock.recv(1) == b"", "an open connection ends as well"
    proxy.clear()
    assert ask(proxy)[0].status == 200
    proxy.add(Fault(Kind.REFUSE, seconds=0.2))
    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    deadline = time.monotonic() + 60
    while True:
        try:
            ask(proxy)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            break


@pytest.mark.parametrize("kind", [Kind.DROP, Kind.LOSE])
def test_no_answer(proxy: FaultyProxy, server: ScriptedPanda, kind: Kind) -> None:
    proxy.add(Fault(kind, count=1))
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        ask(proxy)
    assert len(server.calls("task/submit")) == (kind is Kind.LOSE)
    assert ask(proxy)[0].status == 200, "it happened once"


def test_reset_in_the_middle(proxy: FaultyProxy) -> None:
    proxy.add(Fault(Kind.RESET, size=5))
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as raw:
        raw.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = bytearray()

        def read_on() -> None:
            while part := raw.recv(1000):
                got.extend(part)

        with pytest.raises(ConnectionResetError):
            read_on()
        assert got.partition(b"\r\n\r\n")[2] in (b"", b'{"suc'), "a reset may overtake what was sent"


def test_broken_bodies(proxy: FaultyProxy) -> None:
    with proxy.fault(Kind.TRUNCATED):
        response, body = ask(proxy)
        assert int(response.headers["Content-Length"]) == len(body)
        with pytest.raises(ValueError, match="Unterminated"):
            json.loads(body)
    with proxy.fault(Kind.CUT), pytest.raises(http.client.IncompleteRead):
        ask(proxy)
    with proxy.fault(Kind.GARBAGE), pytest.raises(UnicodeDecodeError):
        ask(proxy)[1].decode()
    with proxy.fault(Kind.ANSWER):
        assert b"Sign in" in ask(proxy)[1]
    with proxy.fault(Kind.HUGE, size=3 * 2**20):
        assert ask(proxy)[1] == bytes(3 * 2**20)
    with proxy.fault(Kind.BOMB, size=3 * 2**20):
        assert gzip.decompress(ask(proxy)[1]) == bytes(3 * 2**20)


def test_changed_heads(proxy: FaultyProxy) -> None:
    with proxy.fault(Kind.STATUS, status=502, page="apache", retry_after="7"):
        response, body = ask(proxy)
        assert (response.status, response.headers["Retry-After"]) == (502, "7")
        assert b"<h1>Bad Gateway</h1>" in body
    with proxy.fault(Kind.REDIRECT, text="http://elsewhere.invalid/"):
        response, _ = ask(proxy)
        assert (response.status, response.headers["Location"]) == (302, "http://elsewhere.invalid/")
    with proxy.fault(Kind.TYPE, text="image/png"):
        response, body = ask(proxy)
        assert response.headers["Content-Type"] == "image/png"
        assert json.loads(body)["success"]
    with proxy.fault(Kind.SKEW, delay=-7200):
        (date,) = ask(proxy)[0].headers.get_all("Date")
        assert 7000 < time.time() - parsedate_to_datetime(date).timestamp() < 7400


def test_delays(proxy: FaultyProxy, server: ScriptedPanda) -> None:
    with proxy.fault(Kind.STALL, delay=0.2):
        assert ask(proxy)[0].status == 200
    with proxy.fault(Kind.LATE, delay=30):

        def broken_off() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                ask(proxy)

        asking = threading.Thread(target=broken_off)
        asking.start()
        deadline = time.monotonic() + 60
        while len(server.calls("task/submit")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        proxy.close()  # ends what stalls
        asking.join(20)
        assert not asking.is_alive()


def test_trickle(proxy: FaultyProxy) -> None:
    proxy.add(Fault(Kind.TRICKLE, delay=0.05))
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as raw:
        raw.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = b""
        while not got.endswith(b"\r\n\r\n   "):
            got += raw.recv(1)


def test_freeze(proxy: FaultyProxy, server: ScriptedPanda) -> None:
    with proxy.fault(Kind.FREEZE):
        assert [json.loads(ask(proxy)[1])["data"] for _ in range(3)] == [7, 7, 7]
    assert len(server.calls("task/submit")) == 1
    assert json.loads(ask(proxy)[1])["data"] == 8


def test_by_path_method_and_order(proxy: FaultyProxy) -> None:
    proxy.add(Fault(Kind.STATUS, path="/task/kill", status=500))
    proxy.add(Fault(Kind.STATUS, method="POST", status=501, count=1))
    proxy.add(Fault(Kind.STATUS, path="/task/", status=503))
    assert ask(proxy, "POST")[0].status == 501
    assert ask(proxy, "POST")[0].status == 503
    assert ask(proxy)[0].status == 503
    assert [(fault["met"], fault["over"]) for fault in proxy.faults()] == [(0, False), (1, True), (2, False)]


def test_from_another_process(server: ScriptedPanda) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stack.faulty_proxy", server.url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        remote = RemoteProxy(told["control"])
        netloc = urlsplit(told["url"]).netloc

        def ask() -> int:
            connection = http.client.HTTPConnection(netloc, timeout=20)
            connection.request("GET", PATH)
            response = connection.getresponse()
            response.read()
            connection.close()
            return response.status

        assert ask() == 200
        remote.add(Kind.STATUS, status=500, count=1)
        assert [ask(), ask()] == [500, 200]
        remote.add(Kind.REFUSE)
        with pytest.raises(ConnectionRefusedError):
            ask()
        assert [fault["met"] for fault in remote.faults()] == [1, 0]
        remote.clear()
        assert ask() == 200
        assert [passed.fault for passed in remote.seen()] == ["", "status", "", ""]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
