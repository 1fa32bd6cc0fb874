"""Which connections a set of resolved addresses calls for."""

from __future__ import annotations

import socket

import pytest

from airflow_provider_panda.broker.addresses import Address, choose_family, plan, resolve
from airflow_provider_panda.exceptions import BrokerError

A = Address("10.0.0.1", 61613, "alias")
B = Address("10.0.0.2", 61613, "alias")
C = Address("10.0.0.3", 61613, "alias")


@pytest.mark.parametrize(
    ("current", "resolved", "opened", "closed"),
    [
        ({}, [A, B], [A, B], []),
        ({A: True}, [A, B], [B], []),
        ({A: True, B: False}, [A, C], [C], [B]),
        ({A: True, B: True}, [A, C], [C], []),
        ({A: True, B: False}, [], [], []),
        ({}, [A, Address("10.0.0.1", 61613, "another-name")], [A], []),
        ({}, [A, Address("10.0.0.1", 61614, "alias")], [A, Address("10.0.0.1", 61614, "alias")], []),
    ],
    ids=["first", "more", "moved", "listening is kept", "nothing resolves", "two names", "two ports"],
)
def test_plan(
    current: dict[Address, bool], resolved: list[Address], opened: list[Address], closed: list[Address]
) -> None:
    assert plan(current, resolved) == (opened, closed)


def test_one_family_is_used() -> None:
    found = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.1")]
    assert [each.ip for each in choose_family("localhost", 1, found)] == ["127.0.0.1"]
    assert [each.ip for each in choose_family("six", 1, found[:1])] == ["::1"]


def test_resolve() -> None:
    assert resolve("127.0.0.1", 61613) == (Address("127.0.0.1", 61613, "127.0.0.1"),)
    with pytest.raises(BrokerError, match="does not resolve"):
        resolve("no..such..name", 61613)


def test_text_names_the_host_and_its_address() -> None:
    assert str(A) == "alias(10.0.0.1):61613"
    assert str(Address("10.0.0.1", 1, "10.0.0.1")) == "10.0.0.1:1"
