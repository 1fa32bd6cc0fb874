"""stomp.py against the embedded broker."""

from __future__ import annotations

import json
import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stomp

from .conftest import RunningGrid

WAIT = 30.0


class Inbox(stomp.ConnectionListener):
    def __init__(self) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()
        self.errors: queue.Queue[Any] = queue.Queue()
        self.receipts: queue.Queue[str] = queue.Queue()

    def on_message(self, frame: Any) -> None:
        self.messages.put(frame)

    def on_error(self, frame: Any) -> None:
        self.errors.put(frame)

    def on_receipt(self, frame: Any) -> None:
        self.receipts.put(frame.headers["receipt-id"])


class Clients:
    def __init__(self, grid: RunningGrid) -> None:
        self.logins = json.loads(Path(grid.ready["broker_file"]).read_text())
        host, _, port = grid.ready["stomp"].rpartition(":")
        self.address = (host, int(port))
        self.open: list[Any] = []

    def connect(self, *, publisher: bool = False, version: Any = stomp.Connection12, beats: Any = (0, 0)) -> Any:
        options = {} if version is stomp.Connection10 else {"heartbeats": beats}
        connection = version([self.address], **options)
        inbox = Inbox()
        connection.set_listener("", inbox)
        prefix = "publisher_" if publisher else ""
        connection.connect(self.logins[f"{prefix}login"], self.logins[f"{prefix}passcode"], wait=True)
        self.open.append(connection)
        return connection, inbox

    def subscribe(self, connection: Any, inbox: Inbox, destination: str, number: str, **options: Any) -> None:
        connection.subscribe(
            destination, number, headers={"receipt": f"s{number}", **options.pop("headers", {})}, **options
        )
        assert inbox.receipts.get(timeout=WAIT) == f"s{number}"


@pytest.fixture
def clients(grid: RunningGrid) -> Iterator[Clients]:
    made = Clients(grid)
    yield made
    for connection in made.open:
        if connection.is_connected():
            connection.disconnect()


@pytest.mark.parametrize("version", [stomp.Connection10, stomp.Connection11, stomp.Connection12])
def test_selected_messages_arrive_with_their_headers(clients: Clients, version: Any) -> None:
    listener, inbox = clients.connect(version=version)
    options = {"selector": "internal_id LIKE 'afabcd%'"}
    if version is stomp.Connection10:
        listener.subscribe("/topic/r1", headers={"receipt": "s1", **options})
        assert inbox.receipts.get(timeout=WAIT) == "s1"
    else:
        clients.subscribe(listener, inbox, "/topic/r1", "1", headers=options)
    sender, sent = clients.connect(publisher=True)
    sender.send("/topic/r1", "no", headers={"internal_id": "afother1"})
    sender.send("/topic/r1", "yes\x00é", headers={"internal_id": "afabcd99", "channel": "a:b"}, receipt="r")
    assert sent.receipts.get(timeout=WAIT) == "r"
    frame = inbox.messages.get(timeout=WAIT)
    assert frame.body == "yes\x00é"
    assert frame.headers["internal_id"] == "afabcd99"
    if version is not stomp.Connection10:
        assert frame.headers["channel"] == "a:b"
    assert frame.headers["destination"] == "/topic/r1"
    assert inbox.messages.empty()


def test_publishers_cannot_listen_and_strangers_not_enter(clients: Clients) -> None:
    sender, inbox = clients.connect(publisher=True)
    sender.subscribe("/topic/r2", "1")
    assert "not authorized" in inbox.errors.get(timeout=WAIT).headers["message"]
    stranger = stomp.Connection12([clients.address], reconnect_attempts_max=1)
    with pytest.raises(stomp.exception.ConnectFailedException):
        stranger.connect("grid", "wrong", wait=True)


def test_a_queue_stores_and_gives_back_what_was_not_acknowledged(clients: Clients) -> None:
    sender, sent = clients.connect(publisher=True)
    for number in range(4):
        sender.send("/queue/q1", str(number))
    sender.send("/queue/q1", "4", receipt="r")
    sent.receipts.get(timeout=WAIT)
    first, inbox = clients.connect()
    first.subscribe("/queue/q1", "1", ack="client-individual")
    got = [inbox.messages.get(timeout=WAIT) for _ in range(5)]
    assert [f.body for f in got] == ["0", "1", "2", "3", "4"]
    first.ack(got[2].headers["ack"])
    first.unsubscribe("1", receipt="u")
    assert inbox.receipts.get(timeout=WAIT) == "u"
    second, other = clients.connect()
    second.subscribe("/queue/q1", "1")
    assert [other.messages.get(timeout=WAIT).body for _ in range(4)] == ["0", "1", "3", "4"]


def test_queue_takes_turns_and_topic_does_not(clients: Clients) -> None:
    pairs = [clients.connect() for _ in range(2)]
    for connection, inbox in pairs:
        clients.subscribe(connection, inbox, "/queue/q2", "1")
        clients.subscribe(connection, inbox, "/topic/t2", "2")
    sender, sent = clients.connect(publisher=True)
    for number in range(6):
        sender.send("/queue/q2", str(number))
    sender.send("/topic/t2", "all", receipt="r")
    sent.receipts.get(timeout=WAIT)
    for _, inbox in pairs:
        bodies = [inbox.messages.get(timeout=WAIT).body for _ in range(4)]
        assert len([b for b in bodies if b != "all"]) == 3
        assert bodies[-1] == "all"


def test_heart_beats_both_ways(clients: Clients) -> None:
    connection, inbox = clients.connect(beats=(1000, 1000))
    clients.subscribe(connection, inbox, "/topic/t3", "1")
    beats: queue.Queue[int] = queue.Queue()
    inbox.on_heartbeat = lambda: beats.put(1)  # type: ignore[method-assign]
    for _ in range(3):
        beats.get(timeout=WAIT)
    assert connection.is_connected()
    silent = socket.create_connection(clients.address)
    login, passcode = clients.logins["login"], clients.logins["passcode"]
    silent.sendall(f"CONNECT\naccept-version:1.2\nheart-beat:1000,0\nlogin:{login}\npasscode:{passcode}\n\n\0".encode())
    silent.settimeout(WAIT)
    received = b""
    while part := silent.recv(4096):
        received += part
    assert received.startswith(b"CONNECTED\nversion:1.2\n")
    silent.close()


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"CONNECT\nno colon\n\n\0", b"SEND\ndestination:/topic/x\n\nhi\0", b"\xff\xfe\0\n\n"],
)
def test_noise_is_refused_and_hurts_nobody(clients: Clients, sent: bytes) -> None:
    with socket.create_connection(clients.address) as noisy:
        noisy.settimeout(WAIT)
        noisy.sendall(sent)
        received = b""
        while part := noisy.recv(4096):
            received += part
        assert received.startswith(b"ERROR\n")
    connection, _ = clients.connect()
    assert connection.is_connected()


def test_too_large_a_frame_is_refused(clients: Clients) -> None:
    login, passcode = clients.logins["login"], clients.logins["passcode"]
    with socket.create_connection(clients.address) as sender:
        sender.settimeout(WAIT)
        sender.sendall(f"CONNECT\naccept-version:1.2\nlogin:{login}\npasscode:{passcode}\n\n\0".encode())
        sender.sendall(b"SEND\ndestination:/topic/x\ncontent-length:200000000\n\n")
        received = b""
        while part := sender.recv(4096):
            received += part
    assert b"over the limit" in received


def test_status_messages(grid: RunningGrid, clients: Clients) -> None:
    listener, inbox = clients.connect()
    clients.subscribe(listener, inbox, "/topic/panda_idds", "1")
    task_id = grid.submit(command="echo bad >&2; exit 3", maxAttempt=1)
    grid.wait(task_id, "failed")
    tasks, jobs = [], []
    while "failed" not in tasks:
        body = json.loads(inbox.messages.get(timeout=WAIT).body)
        if body["taskid"] == task_id:
            (tasks if body["msg_type"] == "task_status" else jobs).append(
                body["status"] if body["msg_type"] == "task_status" else body
            )
    assert tasks == ["defined", "running", "prepared", "failed"]
    states = [b["status"] for b in jobs]
    assert states == ["pending", "defined", "activated", "starting", "running", "failed"]
    assert jobs[0]["inputs"] == ["000000:j0"]
    assert jobs[0]["piloterrorcode"] == "NULL"
    assert jobs[1]["piloterrorcode"] == 0
    assert list(jobs[3]) == ["computingsite", "inputs", "msg_type", "jobid", "taskid", "status", "timestamp"]
    assert jobs[3]["inputs"] is None
    real = (
        json.loads(Path("/work/shared/samples/panda/broker_messages.json").read_text())
        if Path("/work/shared").exists()
        else []
    )
    failed = [
        b for b in (json.loads(m["body"]) for m in real) if b["status"] == "failed" and b["msg_type"] == "job_status"
    ]
    if failed:
        assert list(jobs[-1]) == list(failed[0])
    assert (jobs[-1]["piloterrorcode"], jobs[-1]["exeerrorcode"]) == (1305, 3)
    assert jobs[-1]["piloterrordiag"] == "Failed to execute payload:bad"
