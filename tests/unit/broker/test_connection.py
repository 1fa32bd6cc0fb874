"""The state table of a connection, and what it subscribes to."""

from __future__ import annotations

import pytest

from airflow_provider_panda.broker.connection import TRANSITIONS, Event, State, Subscription, subscriptions
from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.broker.hub import Hub
from airflow_provider_panda.exceptions import ConfigurationError


def test_every_state_can_be_stopped_and_only_closed_is_final() -> None:
    assert {state for state in State if (state, Event.STOP) in TRANSITIONS} == set(State) - {State.CLOSED}
    assert not [event for state, event in TRANSITIONS if state is State.CLOSED]


def test_every_attempt_can_be_lost_and_is_tried_again() -> None:
    lost = {state for (state, event), after in TRANSITIONS.items() if event is Event.LOST and after is State.WAITING}
    assert lost == {State.CONNECTING, State.SUBSCRIBING, State.LISTENING}
    assert TRANSITIONS[State.WAITING, Event.RETRY] is State.CONNECTING


def test_listening_is_reached_only_through_a_login_and_a_subscription() -> None:
    assert {pair for pair, after in TRANSITIONS.items() if after is State.LISTENING} == {
        (State.SUBSCRIBING, Event.SUBSCRIBED)
    }
    assert {pair for pair, after in TRANSITIONS.items() if after is State.SUBSCRIBING} == {
        (State.CONNECTING, Event.LOGGED_IN)
    }


def test_subscriptions() -> None:
    endpoint = BrokerEndpoint(addresses=(("h", 1),), status_destination="/topic/panda_idds")
    assert subscriptions(endpoint, "abcd") == (
        Subscription(b"results", "/topic/airflow.panda.results", "internal_id LIKE 'afabcd%'"),
        Subscription(b"status", "/topic/panda_idds"),
    )
    assert len(subscriptions(BrokerEndpoint(addresses=(("h", 1),)), "abcd")) == 1


@pytest.mark.parametrize("instance", ["", "ab%", "a'b", "ab_d", "abcdefghi"])
async def test_an_instance_that_would_change_the_selector_is_refused(instance: str) -> None:
    with pytest.raises(ConfigurationError, match="instance"):
        Hub(BrokerEndpoint(addresses=(("h", 1),)), instance)
