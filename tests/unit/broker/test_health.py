"""What a hub counts: nothing is forgotten when connections go, and nothing is kept of each of them."""

from __future__ import annotations

import asyncio
import time

import pytest

from airflow_provider_panda.broker.addresses import Address
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.health import Latency
from airflow_provider_panda.broker.hub import Hub, changes_of, open_hubs
from airflow_provider_panda.broker.screen import Drop


async def test_a_name_that_leads_to_ever_new_addresses_costs_nothing() -> None:
    hub = Hub(BrokerEndpoint(addresses=(("127.0.0.1", 1),)), "abcd")
    for number in range(100):
        hub._rearrange([Address("127.0.0.1", 1 + number, "moves.test")])
        for tally in hub._tallies.values():
            tally.messages, tally.dropped[Drop.NO_KEY], tally.last_message = 2, 1, float(number)
    async with asyncio.timeout(60):
        while len(hub._tallies) > 1:
            await asyncio.sleep(0.01)
            hub.health()
    found = hub.health()
    assert len(found.addresses) == 1
    assert found.messages >= 200
    assert found.dropped == {"no_key": 100}
    assert found.last_message == 99.0
    await hub.aclose()
    assert hub.health().messages == found.messages
    assert changes_of(asyncio.get_running_loop()).is_set()
    assert hub not in open_hubs()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time, which stands still."""
    now = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: now)
    return now


@pytest.mark.parametrize(
    ("late", "counted"), [(2.0, 2.0), (-50.0, 0.0), (None, None), (1.7e9, None), (float("nan"), None)], ids=str
)
def test_latency_of_clocks_of_all_kinds(now: float, late: float | None, counted: float | None) -> None:
    latency = Latency().with_one_more(None if late is None else now - late)
    assert latency.results == (0 if counted is None else 1)
    assert latency.longest == (counted or 0.0)


def test_latency_of_several(now: float) -> None:
    latency = Latency().with_one_more(now - 10).with_one_more(now - 20)
    assert (latency.mean, latency.longest) == (15, 20)
