"""Try a broker out: connect to every address, subscribe, publish, and wait for what was published."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from airflow_provider_panda.broker.addresses import Address, resolve
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.frames import header
from airflow_provider_panda.broker.session import Session, Stop
from airflow_provider_panda.exceptions import BrokerError

STEP_TIMEOUT: Final = 8.0
"""Seconds for each of: login, subscription, publishing, delivery."""


class Stage(Enum):
    """How far a trial of one address comes, in this order."""

    RESOLVE = "finding the address"
    LOGIN = "as subscriber"
    SUBSCRIBE = "subscribing"
    PUBLISHER = "as publisher"
    PUBLISH = "publishing"
    DELIVER = "waiting for what was published"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressCheck:
    """What came of one address.

    :param address: name, IP address and port; the name alone if it does not resolve.
    :param problem: what went wrong and in which stage, or None.
    :param failed_at: that stage, or None.
    :param seconds: time from publishing to delivery, if it came to that.
    """

    address: str
    problem: str | None = None
    failed_at: Stage | None = None
    seconds: float | None = None


def try_out(endpoint: BrokerEndpoint) -> tuple[AddressCheck, ...]:
    """Return what came of every address, tried side by side. Blocks for at most half a minute."""
    checks: list[AddressCheck] = []
    addresses: dict[Address, None] = {}
    for host, port in endpoint.addresses:
        try:
            addresses.update(dict.fromkeys(resolve(host, port)))
        except BrokerError as error:
            checks.append(AddressCheck(address=f"{host}:{port}", problem=str(error), failed_at=Stage.RESOLVE))
    if addresses:
        with ThreadPoolExecutor(max_workers=min(8, len(addresses)), thread_name_prefix="panda-broker-test") as pool:
            checks += pool.map(lambda address: _try_address(endpoint, address), addresses)
    return tuple(checks)


def summary(checks: Sequence[AddressCheck]) -> tuple[bool, str]:
    """Return whether every address works, and one line for people."""
    failed = [check for check in checks if check.problem]
    if not failed:
        return True, "Published to and received from " + ", ".join(
            f"{check.address} ({1000 * (check.seconds or 0):.0f} ms)" for check in checks
        )
    works = len(checks) - len(failed)
    text = "; ".join(str(check.problem) for check in failed)
    return False, f"{len(failed)} of {len(checks)} addresses failed: {text}" if works else text


def _try_address(endpoint: BrokerEndpoint, address: Address) -> AddressCheck:
    stop = Stop()
    subscriber = _session(endpoint, address, stop)
    publisher = _session(_as_publisher(endpoint), address, stop)
    stage, where = Stage.LOGIN, ""
    try:
        key = f"aftest{uuid.uuid4().hex[:14]}"
        subscriber.open(STEP_TIMEOUT)
        stage, where = Stage.SUBSCRIBE, f" to {endpoint.result_destination}"
        subscriber.subscribe("test", endpoint.result_destination, f"internal_id = '{key}'", STEP_TIMEOUT)
        stage, where = Stage.PUBLISHER, ""
        publisher.open(STEP_TIMEOUT)
        stage, where = Stage.PUBLISH, f" to {endpoint.result_destination}"
        began = time.monotonic()
        headers = {"internal_id": key, "channel": "airflow-panda", "type": "test"}
        publisher.send(endpoint.result_destination, headers, b"{}", STEP_TIMEOUT)
        stage, where = Stage.DELIVER, ""
        while time.monotonic() < began + STEP_TIMEOUT:
            if any(header(frame.head, b"internal_id") == key.encode() for frame in subscriber.read(STEP_TIMEOUT)):
                return AddressCheck(address=str(address), seconds=time.monotonic() - began)
        raise BrokerError(
            f"broker {address}: it took a message for {endpoint.result_destination}, but did not send it to its "
            "subscriber. Check that the destination is a topic, and the rights of the login on it.",
            address=str(address),
        )
    except BrokerError as error:
        return AddressCheck(address=str(address), problem=f"{error} ({stage.value}{where})", failed_at=stage)
    finally:
        subscriber.close()
        publisher.close()
        stop.close()


def _as_publisher(endpoint: BrokerEndpoint) -> BrokerEndpoint:
    if endpoint.publisher_login is None:
        return endpoint
    return replace(endpoint, login=endpoint.publisher_login, passcode=endpoint.publisher_passcode)


def _session(endpoint: BrokerEndpoint, address: Address, stop: Stop) -> Session:
    return Session(
        address,
        login=endpoint.login,
        passcode=endpoint.passcode,
        tls=endpoint.tls,
        heartbeat=endpoint.heartbeat,
        stop=stop,
    )
