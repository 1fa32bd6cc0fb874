"""One connection to one broker address, from TCP to the last frame; made anew for every attempt, used by one thread.

The frames are stomp.py's: a fresh ``stomp.Connection12`` speaks through a transport of ours. stomp.py's own loops
are not used, for what they do under faults (measured with 9.0.0, facts/peers.md section 8): heart-beats stop after
a reconnect, the socket is closed from the heart-beat thread, a frame is kept whole and copied with every piece
however large it is, TLS checks the name that was connected to (we connect to addresses), and debug logs show
passcodes. Here one thread sends, receives and keeps the pulse, and nothing blocks longer than its deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import socket
import ssl
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from airflow_provider_panda.broker.addresses import Address
from airflow_provider_panda.broker.endpoint import BrokerTLS
from airflow_provider_panda.broker.frames import BadFrame, Frame, FrameReader, header_text
from airflow_provider_panda.broker.pace import Pulse, agree
from airflow_provider_panda.exceptions import BrokerError
from airflow_provider_panda.payload.envelope import BODY_LIMIT

if TYPE_CHECKING:
    from airflow_provider_panda.broker.wire import Wire

OPEN_TIMEOUT: Final = 10.0
"""Seconds for TCP, TLS and login, and as many again for a subscription."""

EARLY_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of messages that are kept while the receipt of a subscription is waited for."""

_PIECE: Final = 64 * 1024
_ROUND: Final = 1024 * 1024
"""Bytes that are read at most before heart-beats are looked after again."""


class Stop:
    """Ends a session from any thread: once set, every wait of the session returns at once."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._set = False

    def set(self) -> None:
        """End it; a second call does nothing."""
        if not self._set:
            self._set = True
            with contextlib.suppress(OSError):  # closed meanwhile by the thread that it was to end
                self._write.send(b"x")

    def is_set(self) -> bool:
        """Whether it was ended."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Wait for at most ``timeout`` seconds and return whether it was ended."""
        with selectors.PollSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            return bool(selector.select(timeout)) or self._set

    def fileno(self) -> int:
        """Return what becomes readable when it ends, for selectors."""
        return self._read.fileno()

    def close(self) -> None:
        """Give the sockets back; only after the last session ended."""
        self._set = True
        self._read.close()
        self._write.close()


class Stopped(Exception):  # noqa: N818 - no error: somebody wanted it
    """The session was ended by its :class:`Stop`."""


class Session:
    """A STOMP 1.2 connection.

    :param address: where to.
    :param login: user, or None.
    :param passcode: password, or None.
    :param tls: TLS settings, or None for plain TCP.
    :param heartbeat: seconds between heart-beats that are asked for, in each direction.
    :param stop: ends it from another thread.
    """

    def __init__(
        self,
        address: Address,
        *,
        login: str | None,
        passcode: str | None,
        tls: BrokerTLS | None,
        heartbeat: float,
        stop: Stop,
    ) -> None:
        self.address = address
        self._login, self._passcode, self._tls, self._heartbeat = login, passcode, tls, heartbeat
        self._stop = stop
        self._socket: socket.socket | None = None
        self._wire: Wire | None = None
        self._reader = FrameReader(BODY_LIMIT)
        self._pulse: Pulse | None = None
        self._receipts: set[str] = set()
        self._early: list[Frame] = []
        self._connected: Frame | None = None
        self._ended: BrokerError | None = None

    def open(self, timeout: float = OPEN_TIMEOUT) -> None:
        """Connect and log in.

        :raises BrokerError: it did not work within ``timeout`` seconds; the message says why.
        :raises Stopped: ended from another thread.
        """
        # Importing stomp.py looks up this host's name, so it is done here, in the thread of the session.
        from airflow_provider_panda.broker.wire import Wire

        deadline = time.monotonic() + timeout
        try:
            self._socket = self._connect(deadline)
            self._wire = Wire(self.address.name, self.address.port)
            milliseconds = int(self._heartbeat * 1000)
            self._wire.connect(self._login, self._passcode, headers={"heart-beat": f"{milliseconds},{milliseconds}"})
            while self._connected is None:
                self._exchange(deadline, "no answer to the login")
        except (OSError, ssl.SSLError) as error:
            raise self._error(f"cannot connect: {_reason(error)}") from None
        answer = header_text(self._connected.head, b"heart-beat")
        self._pulse = Pulse(agree(self._heartbeat, answer), time.monotonic())

    def subscribe(
        self, subscription: str, destination: str, selector: str | None = None, timeout: float = OPEN_TIMEOUT
    ) -> None:
        """Subscribe, and wait until the broker says that it did.

        :param subscription: id of the subscription, in the ``subscription`` header of its messages.
        :param destination: such as ``/topic/airflow.panda.results``.
        :param selector: SQL-92 condition on headers.
        :raises BrokerError: refused, lost, or no answer within ``timeout`` seconds.
        """
        receipt = f"subscribed-{subscription}"
        headers = {"receipt": receipt} | ({"selector": selector} if selector else {})
        self._speaking().subscribe(destination, subscription, ack="auto", headers=headers)
        self._await_receipt(receipt, timeout, f"no answer to the subscription to {destination}")

    def send(self, destination: str, headers: Mapping[str, str], body: bytes, timeout: float = OPEN_TIMEOUT) -> None:
        """Send a message, and wait until the broker says that it has it.

        :raises BrokerError: refused, lost, or no answer within ``timeout`` seconds.
        """
        receipt = f"sent-{uuid.uuid4()}"
        self._speaking().send(destination, body, headers={**headers, "receipt": receipt})
        self._await_receipt(receipt, timeout, f"no answer to a message to {destination}")

    def read(self, timeout: float | None = None) -> list[Frame]:
        """Return messages that arrived, waiting for some; none after ``timeout`` seconds or to let heart-beats out.

        :raises BrokerError: the connection is lost, or the broker was silent for too long.
        :raises Stopped: ended from another thread.
        """
        pulse = self._beating()
        if self._early:
            early, self._early = self._early, []
            return early
        wait = pulse.until_next(time.monotonic())
        try:
            frames = self._turn(wait if timeout is None else min(wait, timeout))
        except OSError as error:
            raise self._error(f"connection lost: {_reason(error)}") from None
        self._keep_pulse()
        return frames

    def beat(self) -> None:
        """Send a heart-beat if one is due, without reading: for a reader that has to wait for its consumer."""
        pulse = self._beating()
        if pulse.beat_due(time.monotonic()):
            self._speaking().beat()
            pulse.sent = time.monotonic()
        try:
            self._write()
        except OSError as error:
            raise self._error(f"connection lost: {_reason(error)}") from None
        # What the broker sent meanwhile is still in the socket's buffer: not reading it is no silence of the broker's.
        pulse.received = time.monotonic()

    def close(self) -> None:
        """Say goodbye if that is possible at once, and close the socket."""
        if self._socket is None:
            return
        try:
            if self._wire is not None and self._connected is not None:
                self._wire.disconnect()
                self._write()
        except OSError:
            pass  # it is lost already
        finally:
            self._socket.close()
            self._socket = None

    # --- the socket -----------------------------------------------------------------------------------------

    def _connect(self, deadline: float) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address.ip else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            outcome = plain.connect_ex((self.address.ip, self.address.port))
            if outcome == errno.EINPROGRESS:
                self._await_socket(plain, selectors.EVENT_WRITE, deadline, "no answer to the TCP connection")
                outcome = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if outcome:
                raise OSError(outcome, os.strerror(outcome))
            return plain if self._tls is None else self._secure(plain, self._tls, deadline)
        except BaseException:
            plain.close()
            raise

    def _secure(self, plain: socket.socket, tls: BrokerTLS, deadline: float) -> ssl.SSLSocket:
        try:
            context = ssl.create_default_context(cafile=tls.ca_file)
            if tls.cert_file:
                context.load_cert_chain(tls.cert_file, tls.key_file)
        except (OSError, ssl.SSLError) as error:
            raise self._error(f"a certificate file cannot be used: {_reason(error)}") from None
        secure = context.wrap_socket(plain, server_hostname=self.address.name, do_handshake_on_connect=False)
        try:
            while True:
                try:
                    secure.do_handshake()
                except ssl.SSLWantReadError:
                    self._await_socket(secure, selectors.EVENT_READ, deadline, "no answer to the TLS handshake")
                except ssl.SSLWantWriteError:
                    self._await_socket(secure, selectors.EVENT_WRITE, deadline, "no answer to the TLS handshake")
                else:
                    return secure
        except BaseException:
            secure.close()
            raise

    def _await_socket(self, waited: socket.socket, events: int, deadline: float, otherwise: str) -> None:
        if not self._select(waited, events, deadline - time.monotonic()):
            raise self._error(f"{otherwise} in time")

    def _select(self, waited: socket.socket, events: int, timeout: float) -> bool:
        with selectors.PollSelector() as selector:
            selector.register(self._stop, selectors.EVENT_READ)
            selector.register(waited, events)
            ready = selector.select(max(0.0, timeout))
        if self._stop.is_set():
            raise Stopped
        return bool(ready)

    # --- frames ---------------------------------------------------------------------------------------------

    def _turn(self, wait: float) -> list[Frame]:
        """Wait for the socket, write what is to be written, read what there is, and return the messages."""
        if self._ended is not None:
            raise self._ended
        connected = self._plugged()
        events = selectors.EVENT_READ
        if self._wire is not None and self._wire.outgoing:
            self._write()
            if self._wire.outgoing:
                events |= selectors.EVENT_WRITE
        if isinstance(connected, ssl.SSLSocket) and connected.pending():
            wait = 0.0
        self._select(connected, events, wait)
        self._write()
        messages: list[Frame] = []
        taken = 0
        while taken < _ROUND:
            try:
                piece = connected.recv(_PIECE)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            if not piece:
                if messages:
                    break  # hand these over first; the next turn finds the end again
                raise self._error("the broker closed the connection")
            taken += len(piece)
            self._acknowledge()
            if self._pulse is not None:
                self._pulse.received = time.monotonic()
            self._ended = ended = self._sort(piece, messages)
            if ended is not None:
                if messages:
                    break  # likewise
                raise ended
            if len(piece) < _PIECE and not isinstance(connected, ssl.SSLSocket):
                break
        return messages

    def _sort(self, piece: bytes, messages: list[Frame]) -> BrokerError | None:
        """Take what arrived, and return what ends the connection: messages before it are good."""
        try:
            for frame in self._reader.feed(piece):
                if self._is_message(frame):
                    messages.append(frame)
            bad = self._reader.bad
        except BadFrame as error:
            bad = error
        except BrokerError as error:
            return error
        return None if bad is None else self._error(f"what arrives is no STOMP: {bad}")

    def _acknowledge(self) -> None:
        """Let the kernel acknowledge at once: a broker that gathers small packets (Nagle, as ActiveMQ does) would hold
        the next message back until the delayed acknowledgement, 40 ms later."""
        if self._socket is not None and hasattr(socket, "TCP_QUICKACK"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _is_message(self, frame: Frame) -> bool:
        if frame.head.startswith(b"MESSAGE"):
            return True
        command = frame.command
        if command == b"RECEIPT":
            self._receipts.add(header_text(frame.head, b"receipt-id"))
        elif command == b"CONNECTED":
            self._connected = frame
            self._speaking().set_connected()
        elif command == b"ERROR":
            raise self._error(f"the broker says: {header_text(frame.head, b'message')[:200] or 'ERROR'}")
        return False

    def _write(self) -> None:
        connected = self._plugged()
        if self._wire is None:
            return
        outgoing = self._wire.outgoing
        while outgoing:
            try:
                sent = connected.send(outgoing[:_PIECE])
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            del outgoing[:sent]
            if self._pulse is not None:
                self._pulse.sent = time.monotonic()

    def _exchange(self, deadline: float, otherwise: str) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._error(f"{otherwise} in time")
        self._early += self._turn(left)
        if sum(frame.size for frame in self._early if frame.body) > EARLY_LIMIT:
            raise self._error(f"more than {EARLY_LIMIT} bytes of messages arrived before the receipt of a subscription")

    def _await_receipt(self, receipt: str, timeout: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout
        try:
            while receipt not in self._receipts:
                self._exchange(deadline, otherwise)
        except OSError as error:
            raise self._error(f"connection lost: {_reason(error)}") from None
        self._receipts.discard(receipt)

    def _keep_pulse(self) -> None:
        pulse, wire = self._beating(), self._speaking()
        now = time.monotonic()
        if pulse.silent(now):
            raise self._error(f"the broker was silent for {pulse.beats.silence:g} s")
        if pulse.probe_due(now):
            wire.probe()
            pulse.probed = now
        elif pulse.beat_due(now):
            wire.beat()
            pulse.sent = now
        self._receipts.clear()

    def _speaking(self) -> Wire:
        if self._wire is None:
            raise self._error("it is not open")
        return self._wire

    def _beating(self) -> Pulse:
        if self._pulse is None:
            raise self._error("it is not open")
        return self._pulse

    def _plugged(self) -> socket.socket:
        if self._socket is None:
            raise self._error("it is not open")
        return self._socket

    def _error(self, problem: str) -> BrokerError:
        return BrokerError(f"broker {self.address}: {problem}", address=str(self.address))


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({error.verify_message}); check the CA file and the host name"
    if isinstance(error, ssl.SSLError) and re.search("ALERT.*(CERTIFICATE|UNKNOWN_CA)", error.reason or ""):
        return (
            f"the broker does not accept our client certificate ({error.reason}); give or renew the file in the field "
            "cert_file of the connection"
        )
    return error.strerror or str(error) or type(error).__name__
