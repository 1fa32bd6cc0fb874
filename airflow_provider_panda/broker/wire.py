"""stomp.py, reduced to what it is good at here: frames with the right headers and escapes.

Only this module imports stomp.py, and only threads of sessions import this module (stomp.py looks up the name of
this host when it is imported, which may take as long as DNS does).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from stomp.connect import BaseConnection
from stomp.protocol import Protocol12
from stomp.transport import Transport
from stomp.utils import convert_frame


class _Buffer(Transport):  # type: ignore[misc]  # stomp.py is untyped
    """A transport that writes into a buffer; the session owns the socket, and no frame reaches stomp.py's log."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__([(name, port)], prefer_localhost=False, try_loopback_connect=False, auto_decode=False)
        self.current_host_and_port = (name, port)
        self.outgoing = bytearray()

    def is_connected(self) -> bool:
        return bool(self.connected)

    def transmit(self, frame: object) -> None:
        self.outgoing += b"".join(convert_frame(frame))


class Wire:
    """A fresh stomp.py connection for one session.

    :param name: broker name for the ``host`` header of CONNECT.
    :param port: its port.

    :ivar outgoing: bytes to be sent.
    """

    def __init__(self, name: str, port: int) -> None:
        self._transport = _Buffer(name, port)
        self._connection = _Connection(self._transport)
        self.outgoing: bytearray = self._transport.outgoing

    def connect(self, login: str | None, passcode: str | None, headers: Mapping[str, str]) -> None:
        """Write CONNECT."""
        self._connection.connect(login, passcode, with_connect_command=True, headers=dict(headers))

    def set_connected(self) -> None:
        """Note that CONNECTED came."""
        self._transport.set_connected(True)

    def subscribe(self, destination: str, subscription: str, ack: str, headers: Mapping[str, str]) -> None:
        """Write SUBSCRIBE."""
        self._connection.subscribe(destination, subscription, ack=ack, headers=dict(headers))

    def send(self, destination: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Write SEND."""
        self._connection.send(destination, body, headers=dict(headers))

    def disconnect(self) -> None:
        """Write DISCONNECT."""
        self._connection.disconnect()

    def beat(self) -> None:
        """Write a heart-beat."""
        self.outgoing += b"\n"

    def probe(self) -> None:
        """Write frames that change nothing, and that every STOMP broker answers with a receipt."""
        name = f"probe-{uuid.uuid4()}"
        self._connection.begin(name, headers={"receipt": name})
        self._connection.abort(name)


class _Connection(BaseConnection, Protocol12):  # type: ignore[misc]
    """``stomp.Connection12`` with a transport of ours, made the way stomp.adapter makes its own."""

    def __init__(self, transport: _Buffer) -> None:
        BaseConnection.__init__(self, transport)
        Protocol12.__init__(self, transport, (0, 0))

    def connect(self, *args: object, **keywords: object) -> None:
        Protocol12.connect(self, *args, **keywords)

    def disconnect(self, receipt: object = None, headers: object = None, **keywords: object) -> None:
        Protocol12.disconnect(self, receipt, headers, **keywords)
