"""The hub: what a process has one of per broker connection, and where triggers wait for results.

All public methods belong to the event loop in which the hub was made. Each connection has a thread, which looks a
message up by its task key, verifies it and decodes it; results then go to the loop in batches. There is no
connection, thread, subscription, queue or task per waiting task: a dict entry and a small object.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final
from weakref import WeakKeyDictionary

from airflow_provider_panda.broker.addresses import Address, plan, resolve
from airflow_provider_panda.broker.connection import Connection, State, subscriptions
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.frames import Frame, header
from airflow_provider_panda.broker.health import HubHealth, Latency, Past, Tally, health_of
from airflow_provider_panda.broker.inbox import Inbox
from airflow_provider_panda.broker.screen import STATUS, Drop, screen_result, screen_status
from airflow_provider_panda.broker.status import StatusMessage, read_status
from airflow_provider_panda.exceptions import BrokerError, ConfigurationError, EnvelopeError, SignatureError
from airflow_provider_panda.payload.result import JobResult, read_body

log = logging.getLogger(__name__)

LINGER: Final = 10.0
"""Seconds for which connections stay open after the last waiter left."""
RESOLVE_EVERY: Final = 60.0
"""Seconds between look-ups of the broker's names; after a loss it is done at once."""
RESOLVE_PAUSE: Final = 2.0
"""Seconds between look-ups at least."""
CLOSE_TIMEOUT: Final = 5.0


class Waiter:
    """One who waits for the results of one task; a context manager, made by :meth:`Hub.wait_for`."""

    __slots__ = ("_deliver", "_hub", "_key", "_logged", "_on_resubscribed", "_told", "task_key")

    def __init__(
        self,
        hub: Hub,
        task_key: str,
        key: bytes,
        deliver: Callable[[JobResult], None],
        on_resubscribed: Callable[[], None] | None,
    ) -> None:
        self.task_key = task_key
        self._hub, self._key, self._on_resubscribed = hub, key, on_resubscribed
        self._deliver: Callable[[JobResult], None] | None = deliver
        self._told = False
        self._logged: frozenset[Drop] = frozenset()

    def __enter__(self) -> Waiter:
        self._hub._add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deliver = None
        self._hub._remove(self)

    async def subscribed(self, timeout: float) -> None:  # noqa: ASYNC109 - the error says why
        """Wait until at least one address is listened to; from then on ``on_resubscribed`` is called.

        :param timeout: seconds.
        :raises BrokerError: none is; the message says why. The waiter stays, and gets results once one is.
        """
        try:
            await self._hub._subscribed(timeout)
        finally:
            self._told = True


class _StatusWatch:
    """One who watches the status messages of one task; a context manager."""

    __slots__ = ("_hub", "callback", "task_id")

    def __init__(self, hub: Hub, task_id: int, callback: Callable[[StatusMessage], None]) -> None:
        self._hub, self.task_id = hub, task_id
        self.callback: Callable[[StatusMessage], None] | None = callback

    def __enter__(self) -> _StatusWatch:
        self._hub._watches[self.task_id] = (*self._hub._watches.get(self.task_id, ()), self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.callback = None
        _discard(self._hub._watches, self.task_id, self)


class Hub:
    """Connections to every address of one broker, and who waits for what. Made by :func:`get_hub`.

    :param endpoint: the broker.
    :param instance: characters of this Airflow instance in task keys.
    :param linger: seconds for which connections stay open after the last waiter left.
    """

    def __init__(self, endpoint: BrokerEndpoint, instance: str, *, linger: float = LINGER) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]{1,8}", instance):
            raise ConfigurationError(
                "instance", f"{instance!r} is not made of letters and digits", "Check config [panda] instance"
            )
        self.endpoint, self.instance = endpoint, instance
        self._loop = asyncio.get_running_loop()
        self._linger = linger
        self._waiters: dict[bytes, tuple[Waiter, ...]] = {}
        self._watches: dict[int, tuple[_StatusWatch, ...]] = {}
        self._connections: dict[Address, Connection] = {}
        self._tallies: dict[Connection, Tally] = {}
        self._past = Past()
        self._listening = asyncio.Event()
        self._look_up = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._unresolved: dict[tuple[str, int], BrokerError] = {}
        self._idle: asyncio.TimerHandle | None = None
        self._inbox = Inbox(self._loop)
        self._delivered = 0
        self._latency = Latency()
        self._subscriptions = subscriptions(endpoint, instance)
        self._start_idling()

    # --- waiting --------------------------------------------------------------------------------------------

    def wait_for(
        self,
        task_key: str,
        *,
        key: bytes,
        deliver: Callable[[JobResult], None],
        on_resubscribed: Callable[[], None] | None = None,
    ) -> Waiter:
        """Return a context manager, inside of which results of a task are delivered.

        :param task_key: key of the task.
        :param key: its signing key.
        :param deliver: called in the loop with every verified result, repeats included.
        :param on_resubscribed: called in the loop when an address is listened to (again) after
            :meth:`Waiter.subscribed` ended: messages sent meanwhile may be lost, so look once elsewhere.
        """
        return Waiter(self, task_key, key, deliver, on_resubscribed)

    def watch_status(self, task_id: int, callback: Callable[[StatusMessage], None]) -> _StatusWatch:
        """Return a context manager, inside of which PanDA's status messages of a task are handed over.

        Only while somebody waits, and only if the endpoint has a status destination.

        :param task_id: jediTaskID.
        :param callback: called in the loop.
        """
        return _StatusWatch(self, task_id, callback)

    def health(self) -> HubHealth:
        """Return how the hub fares."""
        self._settle_past()
        return health_of(
            self._connections.values(),
            self._tallies,
            past=self._past,
            delivered=self._delivered,
            waiting=len(self._waiters),
        )

    def take_latency(self) -> Latency:
        """Return how late the results were that were handed over since this was last called."""
        latency, self._latency = self._latency, Latency()
        return latency

    async def aclose(self) -> None:
        """Close every connection and wait for their threads; a waiter that comes later opens them again."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        connections = self._shut()
        await asyncio.gather(*(asyncio.to_thread(each.join, CLOSE_TIMEOUT) for each in connections))

    def _add(self, waiter: Waiter) -> None:
        name = waiter.task_key.encode()
        self._waiters[name] = (*self._waiters.get(name, ()), waiter)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._supervisor is None:
            _HUBS.setdefault((self._loop, self.endpoint, self.instance), self)
            self._supervisor = self._loop.create_task(self._supervise(), name=f"panda-hub-{self.instance}")

    def _remove(self, waiter: Waiter) -> None:
        _discard(self._waiters, waiter.task_key.encode(), waiter)
        if not self._waiters:
            self._start_idling()

    def _start_idling(self) -> None:
        if self._idle is None:
            self._idle = self._loop.call_later(self._linger, self._end_idling)

    def _end_idling(self) -> None:
        self._idle = None
        if not self._waiters:
            self._shut()

    def _shut(self) -> list[Connection]:
        if _HUBS.get((self._loop, self.endpoint, self.instance)) is self:
            del _HUBS[self._loop, self.endpoint, self.instance]
        if self._supervisor is not None:
            if not self._loop.is_closed():
                self._supervisor.cancel()
            self._supervisor = None
        connections = list(self._connections.values())
        for each in connections:
            each.stop()
        self._connections.clear()
        self._listening.clear()
        if not self._loop.is_closed():
            changes_of(self._loop).set()
        return connections

    async def _subscribed(self, timeout: float) -> None:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                await self._listening.wait()
        except TimeoutError:
            problems = [str(each.problem) for each in self._connections.values() if each.problem]
            problems += [str(error) for error in self._unresolved.values()]
            reason = "; ".join(problems) or f"no answer within {timeout:g} s"
            raise BrokerError(
                f"no address of the broker is listened to ({reason}). The hub goes on trying; results are looked "
                f"for in PanDA's records meanwhile. `airflow panda check` tries the connection step by step.",
                address=", ".join(f"{host}:{port}" for host, port in self.endpoint.addresses),
            ) from None

    # --- connections ----------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep one connection per resolved address."""
        while True:
            self._look_up.clear()
            try:
                found = await asyncio.gather(*(self._resolve(host, port) for host, port in self.endpoint.addresses))
                self._rearrange([address for addresses in found for address in addresses])
            except Exception:
                log.exception("broker addresses were not looked up; trying again")
            await asyncio.sleep(RESOLVE_PAUSE)
            try:
                async with asyncio.timeout(RESOLVE_EVERY):
                    await self._look_up.wait()
            except TimeoutError:
                pass

    def _rearrange(self, resolved: list[Address]) -> None:
        current = {each.address: each.state is State.LISTENING for each in self._connections.values()}
        opened, closed = plan(current, resolved)
        for address in closed:
            self._connections.pop(address).stop()
        for address in opened:
            self._connections[address] = connection = Connection(
                address,
                self.endpoint,
                self._subscriptions,
                receive=self._receive,
                changed=self._changed,
                wanted=lambda: not self._loop.is_closed(),
            )
            self._tallies[connection] = Tally()
            connection.start()
        self._settle_past()

    def _settle_past(self) -> None:
        """Keep sums only of connections of which nothing more will come: names may lead to ever new addresses."""
        for connection, tally in list(self._tallies.items()):
            if connection.over and tally.posted == tally.flushed and connection not in self._connections.values():
                self._past.take(connection, self._tallies.pop(connection))

    async def _resolve(self, host: str, port: int) -> tuple[Address, ...]:
        try:
            addresses = await asyncio.to_thread(resolve, host, port)
        except BrokerError as error:
            if (host, port) not in self._unresolved:
                log.warning("%s", error)
            self._unresolved[host, port] = error
            return tuple(address for address in self._connections if (address.name, address.port) == (host, port))
        self._unresolved.pop((host, port), None)
        return addresses

    def _changed(self, connection: Connection, before: State) -> None:
        """Tell the loop of a change of state. In the connection's thread."""
        if connection.state is State.LISTENING or before is State.LISTENING or connection.state is State.WAITING:
            try:
                self._loop.call_soon_threadsafe(self._note_change, connection, connection.state)
            except RuntimeError:  # the loop was closed without closing the hub
                connection.stop()

    def _note_change(self, connection: Connection, state: State) -> None:
        if self._connections.get(connection.address) is not connection:
            return
        changes_of(self._loop).set()
        if any(each.state is State.LISTENING for each in self._connections.values()):
            self._listening.set()
        else:
            self._listening.clear()
        if state is State.LISTENING:
            for waiter in [each for waiters in self._waiters.values() for each in waiters]:
                if waiter._told and waiter._on_resubscribed is not None:
                    self._call(waiter._on_resubscribed, waiter.task_key)
        else:
            self._look_up.set()

    # --- messages: in the threads of the connections --------------------------------------------------------

    def _receive(self, connection: Connection, frames: list[Frame]) -> None:
        tally = self._tallies[connection]
        for frame in frames:
            self._take(connection, tally, frame)
            if self._inbox.overfull(tally):
                self._wake(connection)
                connection.hold(tally.drained)
        self._wake(connection)

    def _wake(self, connection: Connection) -> None:
        try:
            self._inbox.wake()
        except RuntimeError:  # the loop was closed without closing the hub
            connection.stop()

    def _take(self, connection: Connection, tally: Tally, frame: Frame) -> None:
        tally.messages += 1
        tally.last_message = time.time()
        try:
            if header(frame.head, b"subscription") == STATUS:
                drop = self._receive_status(tally, frame)
            else:
                drop = self._receive_result(tally, frame)
        except Exception:
            drop = Drop.UNREADABLE
            if not tally.dropped[drop]:
                log.exception(
                    "broker %s: a message was dropped; more of this kind are only counted", connection.address
                )
        if drop is not None:
            tally.dropped[drop] += 1

    def _receive_result(self, tally: Tally, frame: Frame) -> Drop | None:
        waiters = screen_result(frame, self._waiters)
        if isinstance(waiters, Drop):
            return waiters
        drop = None
        for waiter in waiters:
            try:
                if frame.body is None:
                    raise EnvelopeError(
                        f"its headers, or a body of {frame.size} bytes, are more than a result message may have"
                    )
                result = read_body(frame.body, key=waiter._key, task_key=waiter.task_key)
            except SignatureError as error:
                drop = self._refuse(waiter, Drop.BAD_SIGNATURE, error)
            except EnvelopeError as error:
                drop = self._refuse(waiter, Drop.TOO_LARGE if frame.body is None else Drop.MALFORMED, error)
            else:
                self._inbox.post(partial(self._hand_over, waiter, result), tally, frame.size)
        return drop

    def _refuse(self, waiter: Waiter, drop: Drop, error: EnvelopeError) -> Drop:
        if drop not in waiter._logged:
            waiter._logged |= {drop}
            log.warning(
                "task %s: a message for it was dropped (%s: %.300r); the wait goes on, and more of this kind for "
                "this task are only counted",
                waiter.task_key,
                drop.value,
                str(error),
            )
        return drop

    def _receive_status(self, tally: Tally, frame: Frame) -> Drop | None:
        watches = screen_status(frame, self._watches)
        if isinstance(watches, Drop):
            return watches
        message = read_status(frame.body or b"")
        if message is None:
            return Drop.MALFORMED
        self._inbox.post(partial(self._hand_over_status, watches, message), tally, frame.size)
        return None

    # --- messages: in the loop ------------------------------------------------------------------------------

    def _hand_over(self, waiter: Waiter, result: JobResult) -> None:
        deliver = waiter._deliver
        if deliver is not None:
            self._delivered += 1
            self._latency = self._latency.with_one_more(result.end)
            self._call(partial(deliver, result), waiter.task_key)

    def _hand_over_status(self, watches: tuple[_StatusWatch, ...], message: StatusMessage) -> None:
        for watch in watches:
            callback = watch.callback
            if callback is not None:
                self._delivered += 1
                self._call(partial(callback, message), f"of jediTaskID {message.task_id}")

    def _call(self, callback: Callable[[], None], task_key: str) -> None:
        """Call what a waiter gave; its failure is not another's."""
        try:
            callback()
        except Exception:
            log.exception("task %s: its callback failed; other waiters are not affected", task_key)


def _discard(table: dict[Any, tuple[Any, ...]], key: object, gone: object) -> None:
    left = tuple(each for each in table.get(key, ()) if each is not gone)
    if left:
        table[key] = left
    else:
        table.pop(key, None)


_HUBS: dict[tuple[asyncio.AbstractEventLoop, BrokerEndpoint, str], Hub] = {}
_CHANGES: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Event] = WeakKeyDictionary()


def get_hub(endpoint: BrokerEndpoint, instance: str) -> Hub:
    """Return the hub of this process for a broker, an Airflow instance and the running loop.

    Its connections open with the first waiter, and close :data:`LINGER` seconds after the last one left.

    :param endpoint: the broker.
    :param instance: characters of this Airflow instance in task keys (``grid.task.instance_id``).
    :raises ConfigurationError: ``instance`` is not made of letters and digits.
    """
    loop = asyncio.get_running_loop()
    for key in [key for key in _HUBS if key[0].is_closed()]:
        _HUBS.pop(key)._shut()
    hub = _HUBS.get((loop, endpoint, instance))
    if hub is None:
        hub = _HUBS[loop, endpoint, instance] = Hub(endpoint, instance)
    return hub


def open_hubs() -> list[Hub]:
    """Return the hubs of the running loop that have connections, or had a waiter within :data:`LINGER` seconds."""
    loop = asyncio.get_running_loop()
    return [hub for (of_loop, _, _), hub in _HUBS.items() if of_loop is loop]


def changes_of(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Return what is set whenever a connection of a hub of a loop begins or ceases to listen, fails, or is closed.

    Whoever awaits it clears it; there can be one such reader.
    """
    return _CHANGES.setdefault(loop, asyncio.Event())
