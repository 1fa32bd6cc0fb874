"""One supervised connection to one broker address: a thread that connects, subscribes, listens, and tries again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from airflow_provider_panda.broker.addresses import Address
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.frames import Frame
from airflow_provider_panda.broker.pace import backoff
from airflow_provider_panda.broker.screen import RESULTS, STATUS
from airflow_provider_panda.broker.session import Session, Stop, Stopped
from airflow_provider_panda.exceptions import BrokerError

log = logging.getLogger(__name__)

STEADY: Final = 30.0
"""Seconds of listening after which a loss starts with the shortest delay again."""


class State(Enum):
    """What a connection is doing."""

    NEW = "new"
    CONNECTING = "connecting"
    """TCP, TLS and login."""
    SUBSCRIBING = "subscribing"
    LISTENING = "listening"
    WAITING = "waiting"
    """Until the next attempt."""
    CLOSED = "closed"


class Event(Enum):
    """What happens to a connection."""

    START = "start"
    LOGGED_IN = "logged_in"
    SUBSCRIBED = "subscribed"
    LOST = "lost"
    """Refused, broken, silent, or anything else that ends an attempt."""
    RETRY = "retry"
    STOP = "stop"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.NEW, Event.START): State.CONNECTING,
    (State.CONNECTING, Event.LOGGED_IN): State.SUBSCRIBING,
    (State.SUBSCRIBING, Event.SUBSCRIBED): State.LISTENING,
    (State.CONNECTING, Event.LOST): State.WAITING,
    (State.SUBSCRIBING, Event.LOST): State.WAITING,
    (State.LISTENING, Event.LOST): State.WAITING,
    (State.WAITING, Event.RETRY): State.CONNECTING,
    **{(state, Event.STOP): State.CLOSED for state in State if state is not State.CLOSED},
}
"""Every transition; anything else is a mistake of ours and raises KeyError."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a connection subscribes to.

    :param id: id of the subscription.
    :param destination: destination.
    :param selector: SQL-92 condition on headers, or None.
    """

    id: bytes
    destination: str
    selector: str | None = None


def subscriptions(endpoint: BrokerEndpoint, instance: str) -> tuple[Subscription, ...]:
    """Return what a hub subscribes to: results of this Airflow instance, and PanDA's status where it is named."""
    results = Subscription(RESULTS, endpoint.result_destination, f"internal_id LIKE 'af{instance}%'")
    if endpoint.status_destination is None:
        return (results,)
    return results, Subscription(STATUS, endpoint.status_destination)


class Connection:
    """A connection that keeps itself up.

    :param address: which broker.
    :param endpoint: how to log in.
    :param subscribe_to: what to subscribe to.
    :param receive: called in the thread of the connection with the messages of each read.
    :param changed: called in the thread of the connection after each change of state.
    :param wanted: asked now and then in the thread of the connection; it ends itself when nobody wants it any more.

    :ivar state: what it is doing.
    :ivar since: Unix time in seconds since which it listens, or does not.
    :ivar problem: why the last attempt ended, or None while all is well.
    :ivar attempts: connections tried.
    :ivar losses: how often it listened and lost that.
    """

    def __init__(
        self,
        address: Address,
        endpoint: BrokerEndpoint,
        subscribe_to: tuple[Subscription, ...],
        *,
        receive: Callable[[Connection, list[Frame]], None],
        changed: Callable[[Connection, State], None],
        wanted: Callable[[], bool],
    ) -> None:
        self.address = address
        self.state, self.since = State.NEW, time.time()
        self.problem: BrokerError | None = None
        self.attempts = self.losses = 0
        self._endpoint, self._subscribe_to = endpoint, subscribe_to
        self._receive, self._changed, self._wanted = receive, changed, wanted
        self._stop = Stop()
        self._session: Session | None = None
        self._thread = threading.Thread(target=self._run, name=f"panda-broker-{address.ip}", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; returns at once, from any thread."""
        self._stop.set()

    @property
    def over(self) -> bool:
        """Whether it was started and its thread has ended: none of its counts changes any more."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def join(self, timeout: float) -> bool:
        """Wait for its thread to end, and return whether it did. Blocks."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def hold(self, drained: threading.Event) -> None:
        """Wait until the consumer of the messages has caught up; heart-beats go on. In the connection's thread."""
        session = self._session
        while not drained.wait(self._endpoint.heartbeat / 4) and not self._stop.is_set():
            if session is not None:
                session.beat()

    def _run(self) -> None:
        self._enter(Event.START)
        delays = backoff()
        while True:
            began = time.monotonic()
            try:
                self._listen()
            except Stopped:
                break
            except BrokerError as error:
                self._note(error)
            except Exception as error:
                log.exception("broker %s: an attempt ended unexpectedly; trying again", self.address)
                self._note(BrokerError(f"broker {self.address}: {error!r}", address=str(self.address)))
            if time.monotonic() - began > STEADY:
                delays = backoff()
            self._enter(Event.LOST)
            if self._stop.wait(next(delays)) or not self._wanted():
                break
            self._enter(Event.RETRY)
        self._enter(Event.STOP)
        self._stop.close()

    def _listen(self) -> None:
        endpoint = self._endpoint
        self.attempts += 1
        self._session = session = Session(
            self.address,
            login=endpoint.login,
            passcode=endpoint.passcode,
            tls=endpoint.tls,
            heartbeat=endpoint.heartbeat,
            stop=self._stop,
        )
        try:
            session.open()
            self._enter(Event.LOGGED_IN)
            for wanted in self._subscribe_to:
                session.subscribe(wanted.id.decode(), wanted.destination, wanted.selector)
            self.problem = None
            self._enter(Event.SUBSCRIBED)
            while self._wanted():
                self._receive(self, session.read())
            raise Stopped
        finally:
            self._session = None
            session.close()

    def _enter(self, event: Event) -> None:
        before = self.state
        self.state = TRANSITIONS[before, event]
        if State.LISTENING in (before, self.state):
            self.since = time.time()
        if before is State.LISTENING and event is Event.LOST:
            self.losses += 1
        if self.state is State.LISTENING:
            log.info("broker %s: listening (attempt %d)", self.address, self.attempts)
        self._changed(self, before)

    def _note(self, error: BrokerError) -> None:
        new = self.problem is None or str(self.problem) != str(error)
        self.problem = error
        log.log(logging.WARNING if new else logging.DEBUG, "%s; trying again", error)
