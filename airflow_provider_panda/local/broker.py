"""A small STOMP broker: topics that fan out, queues that store while nobody listens, selectors, heart-beats.

In memory: what a queue holds is gone when the grid stops, as with a broker without persistence.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from airflow_provider_panda.local.auth import Keys
from airflow_provider_panda.local.frames import HEADER_LIMIT, Frame, FrameError, encode, read_frame
from airflow_provider_panda.local.selector import Selector, SelectorError, parse_selector

log = logging.getLogger(__name__)

SUPPORTED: Final = ("1.2", "1.1", "1.0")
BACKLOG_LIMIT: Final = 128 * 1024 * 1024
"""Bytes that may wait for one consumer before it is dropped."""
QUEUE_LIMIT: Final = 256 * 1024 * 1024
"""Bytes that all queues may hold; the oldest go first."""
LOGIN_TIMEOUT: Final = 10.0
HEARTBEAT_OFFER: Final = (1000, 1000)
"""Milliseconds: the shortest periods in which the broker can send, and wants to receive."""
_NOT_PASSED_ON: Final = frozenset(
    {"receipt", "transaction", "content-length", "destination", "message-id", "subscription", "ack"}
)


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscription of a connection."""

    id: str
    destination: str
    selector: Selector | None
    ack: str
    session: Session

    def wants(self, message: Message) -> bool:
        """Whether a message is for this subscription."""
        return self.selector is None or self.selector(message.headers)


@dataclass(frozen=True, slots=True)
class Message:
    """A message on its way."""

    destination: str
    id: str
    headers: Mapping[str, str]
    body: bytes


class ProtocolError(Exception):
    """The client did what STOMP, or this broker, does not allow; it is told and disconnected."""


@dataclass(slots=True)
class _Queue:
    waiting: deque[Message] = field(default_factory=deque)
    turn: int = 0


class Session:
    """One client connection."""

    def __init__(self, broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._broker, self._reader, self._writer = broker, reader, writer
        self.version = "1.0"
        self.may_subscribe = False
        self.subscriptions: dict[str, Subscription] = {}
        self.unacknowledged: OrderedDict[str, tuple[Subscription, Message]] = OrderedDict()
        self._numbers = itertools.count(1)
        self._last_sent = time.monotonic()
        self._open = True

    def send(self, frame: Frame) -> None:
        """Queue a frame for the client; drop a client that does not read."""
        if not self._open:
            return
        if self._writer.transport.get_write_buffer_size() > BACKLOG_LIMIT:
            log.warning("broker: a consumer does not read; it is disconnected")
            self._open = False
            self._writer.transport.abort()
            return
        escaped = self.version != "1.0" and frame.command not in ("CONNECTED",)
        self._writer.write(encode(frame, escaped=escaped))
        self._last_sent = time.monotonic()

    def deliver(self, subscription: Subscription, message: Message) -> None:
        """Send a message of a subscription, and remember it if it must be acknowledged."""
        number = f"{id(self):x}-{next(self._numbers)}"
        message_id = message.id if self.version == "1.2" else f"{message.id}:{number}"
        headers = {
            "subscription": subscription.id,
            "message-id": message_id,
            "destination": message.destination,
            "content-length": str(len(message.body)),
            **message.headers,
        }
        if subscription.ack != "auto":
            headers["ack"] = number
            self.unacknowledged[number if self.version == "1.2" else message_id] = (subscription, message)
        self.send(Frame("MESSAGE", headers, message.body))

    async def run(self) -> None:
        """Speak with the client until either side ends it."""
        beats: asyncio.Task[None] | None = None
        try:
            frame = await asyncio.wait_for(self._frame(None), LOGIN_TIMEOUT)
            send_every, silence = self._connect(frame)
            if send_every:
                beats = asyncio.ensure_future(self._beat(send_every))
            while self._open:
                frame = await self._frame(silence)
                if frame.command == "DISCONNECT":
                    self._receipt(frame)
                    break
                self._serve(frame)
                await self._writer.drain()
        except (FrameError, ProtocolError, SelectorError) as error:
            self.send(Frame("ERROR", {"message": str(error)[:500], "content-type": "text/plain"}, str(error).encode()))
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            self._open = False
            if beats is not None:
                beats.cancel()
            self._broker.forget(self)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._writer.drain(), 1)
            self._writer.close()

    def close(self) -> None:
        """End the connection."""
        self._open = False
        self._writer.close()

    async def _frame(self, silence: float | None) -> Frame:
        """Return the next frame; heart-beats count against silence only."""
        while True:
            reading = read_frame(self._reader, escaped=self.version != "1.0")
            frame = await (asyncio.wait_for(reading, silence) if silence else reading)
            if frame is not None:
                return frame

    async def _beat(self, period: float) -> None:
        while self._open:
            await asyncio.sleep(period)
            if self._open and time.monotonic() - self._last_sent >= period * 0.8:
                self._writer.write(b"\n")
                self._last_sent = time.monotonic()

    def _connect(self, frame: Frame) -> tuple[float, float | None]:
        if frame.command not in ("CONNECT", "STOMP"):
            raise ProtocolError("CONNECT or STOMP must come first")
        offered = frame.headers.get("accept-version", "1.0").split(",")
        version = next((v for v in SUPPORTED if v in offered), None)
        if version is None:
            raise ProtocolError("Supported protocol versions are 1.0 1.1 1.2")
        access = self._broker.access(frame.headers.get("login", ""), frame.headers.get("passcode", ""))
        if access is None:
            raise ProtocolError("User name or password is invalid.")
        self.may_subscribe = access == "subscriber"
        can_send, wants = _heart_beat(frame.headers.get("heart-beat", "0,0"))
        send_every = max(HEARTBEAT_OFFER[0], wants) / 1000 if wants else 0.0
        hear_every = max(HEARTBEAT_OFFER[1], can_send) / 1000 if can_send else 0.0
        self.send(
            Frame(
                "CONNECTED",
                {
                    "version": version,
                    "server": "embedded-grid/1.0",
                    "session": f"{id(self):x}",
                    "heart-beat": f"{HEARTBEAT_OFFER[0]},{HEARTBEAT_OFFER[1]}",
                },
            )
        )
        self.version = version
        return send_every, hear_every * 2.5 + 3 if hear_every else None

    def _serve(self, frame: Frame) -> None:
        match frame.command:
            case "SEND":
                self._broker.accept(frame)
            case "SUBSCRIBE":
                self._subscribe(frame)
            case "UNSUBSCRIBE":
                self._broker.unsubscribe(self, frame.headers.get("id") or frame.headers.get("destination", ""))
            case "ACK" | "NACK":
                self._acknowledge(frame)
            case "BEGIN" | "COMMIT" | "ABORT":
                raise ProtocolError("this broker has no transactions")
            case _:
                raise ProtocolError(f"unknown command {frame.command}")
        self._receipt(frame)

    def _receipt(self, frame: Frame) -> None:
        if "receipt" in frame.headers:
            self.send(Frame("RECEIPT", {"receipt-id": frame.headers["receipt"]}))

    def _subscribe(self, frame: Frame) -> None:
        if not self.may_subscribe:
            raise ProtocolError("User is not authorized to read")
        destination = frame.headers.get("destination", "")
        if not destination.startswith(("/topic/", "/queue/")):
            raise ProtocolError("destination must start with /topic/ or /queue/")
        ack = frame.headers.get("ack", "auto")
        if ack not in ("auto", "client", "client-individual"):
            raise ProtocolError(f"unknown ack mode {ack}")
        selector = frame.headers.get("selector")
        subscription = Subscription(
            id=frame.headers.get("id") or destination,
            destination=destination,
            selector=parse_selector(selector) if selector else None,
            ack=ack,
            session=self,
        )
        if subscription.id in self.subscriptions:
            raise ProtocolError(f"subscription {subscription.id} exists")
        self._broker.subscribe(self, subscription)

    def _acknowledge(self, frame: Frame) -> None:
        key = frame.headers.get("id") if self.version == "1.2" else frame.headers.get("message-id")
        entry = self.unacknowledged.get(key or "")
        if key is None or entry is None:
            raise ProtocolError("no such message to acknowledge")
        subscription, message = entry
        if subscription.ack == "client":
            for earlier in list(self.unacknowledged):
                if self.unacknowledged[earlier][0] is subscription:
                    del self.unacknowledged[earlier]
                if earlier == key:
                    break
        else:
            del self.unacknowledged[key]
        if frame.command == "NACK":
            log.info("broker: a message for %s was refused by its consumer and is dropped", message.destination)


def _heart_beat(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    if not first.strip().isdigit() or not second.strip().isdigit():
        raise ProtocolError("heart-beat must be two numbers")
    return int(first), int(second)


class Broker:
    """The embedded broker.

    :param keys: logins that it accepts.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._sessions: set[Session] = set()
        self._by_destination: dict[str, list[Subscription]] = {}
        self._queues: dict[str, _Queue] = {}
        self._stored = 0
        self._numbers = itertools.count(1)
        self._started = int(time.time() * 1000)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen.

        :param port: 0 for a free one; :attr:`port` says which.
        """
        self._server = await asyncio.start_server(self._serve, host, port, limit=HEADER_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.close()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=2)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, reader, writer)
        self._sessions.add(session)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task of the event loop")
        self._tasks.add(task)
        try:
            await session.run()
        finally:
            self._tasks.discard(task)

    def access(self, login: str, passcode: str) -> str | None:
        """Return what a login may do: ``subscriber``, ``publisher``, or None."""
        for name, secret, role in (
            (self._keys.broker_login, self._keys.broker_passcode, "subscriber"),
            (self._keys.publisher_login, self._keys.publisher_passcode, "publisher"),
        ):
            if login == name and hmac.compare_digest(passcode.encode(), secret.encode()):
                return role
        return None

    def publish(self, destination: str, body: str) -> None:
        """Send a message of the grid itself."""
        self._route(self._message(destination, {}, body.encode()))

    def accept(self, frame: Frame) -> None:
        """Take a SEND frame."""
        destination = frame.headers.get("destination", "")
        if not destination.startswith(("/topic/", "/queue/")):
            raise ProtocolError("destination must start with /topic/ or /queue/")
        if "transaction" in frame.headers:
            raise ProtocolError("this broker has no transactions")
        headers = {k: v for k, v in frame.headers.items() if k not in _NOT_PASSED_ON}
        self._route(self._message(destination, headers, frame.body))

    def _message(self, destination: str, headers: Mapping[str, str], body: bytes) -> Message:
        identifier = f"ID:embedded-{self._started}:{next(self._numbers)}"
        common = {"expires": "0", "priority": "4", "timestamp": str(int(time.time() * 1000))}
        return Message(destination, identifier, {**common, **headers}, body)

    def _route(self, message: Message) -> None:
        if message.destination.startswith("/topic/"):
            for subscription in list(self._by_destination.get(message.destination, ())):
                if subscription.wants(message):
                    subscription.session.deliver(subscription, message)
        elif not self._hand_out(message):
            self._queues.setdefault(message.destination, _Queue()).waiting.append(message)
            self._stored += len(message.body)
            self._bound()

    def _hand_out(self, message: Message) -> bool:
        """Give a queue's message to the next subscriber in turn that wants it."""
        subscriptions = self._by_destination.get(message.destination, [])
        queue = self._queues.setdefault(message.destination, _Queue())
        for offset in range(len(subscriptions)):
            subscription = subscriptions[(queue.turn + offset) % len(subscriptions)]
            if subscription.wants(message):
                queue.turn = (queue.turn + offset + 1) % len(subscriptions)
                subscription.session.deliver(subscription, message)
                return True
        return False

    def _bound(self) -> None:
        while self._stored > QUEUE_LIMIT:
            queue = max(self._queues.values(), key=lambda q: len(q.waiting))
            dropped = queue.waiting.popleft()
            self._stored -= len(dropped.body)
            log.warning("broker: %s is full; its oldest message is dropped", dropped.destination)

    def subscribe(self, session: Session, subscription: Subscription) -> None:
        """Add a subscription, and hand out what its queue holds."""
        session.subscriptions[subscription.id] = subscription
        self._by_destination.setdefault(subscription.destination, []).append(subscription)
        self._drain(subscription.destination)

    def _drain(self, destination: str) -> None:
        queue = self._queues.get(destination)
        if queue is None:
            return
        waiting, queue.waiting = queue.waiting, deque()
        for message in waiting:
            if self._hand_out(message):
                self._stored -= len(message.body)
            else:
                queue.waiting.append(message)

    def unsubscribe(self, session: Session, name: str) -> None:
        """End a subscription."""
        subscription = session.subscriptions.pop(name, None)
        if subscription is None:
            raise ProtocolError(f"no subscription {name}")
        self._drop(subscription)

    def _drop(self, subscription: Subscription) -> None:
        remaining = self._by_destination.get(subscription.destination, [])
        remaining.remove(subscription)
        if not remaining:
            self._by_destination.pop(subscription.destination, None)
        mine = [k for k, (s, _) in subscription.session.unacknowledged.items() if s is subscription]
        back = [subscription.session.unacknowledged.pop(key)[1] for key in mine]
        if back and subscription.destination.startswith("/queue/"):
            queue = self._queues.setdefault(subscription.destination, _Queue())
            queue.waiting.extendleft(reversed(back))
            self._stored += sum(len(m.body) for m in back)
            self._drain(subscription.destination)

    def forget(self, session: Session) -> None:
        """Take away a connection that ended; what it did not acknowledge goes to others."""
        self._sessions.discard(session)
        while session.subscriptions:
            _, subscription = session.subscriptions.popitem()
            self._drop(subscription)
