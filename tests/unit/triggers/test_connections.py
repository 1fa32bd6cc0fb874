"""Connections that triggers share: read again when a token is refused, and whose token reaches whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError, GridAuthError
from airflow_provider_panda.hooks.panda import PandaConnection, parse
from airflow_provider_panda.triggers import connections
from airflow_provider_panda.triggers.connections import connection_that_fits, shared_connection
from tests.stack.scripted_issuer import EXPIRED, jwt, lived
from tests.stack.scripted_panda import ScriptedPanda, envelope, scripted_panda, status

LISTING = "task/get_tasks_detailed_info_since"


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        yield server


class Row:
    """A connection that is edited while triggers wait."""

    def __init__(self, host: str, token: str, **extra: Any) -> None:
        self.host, self.token, self.extra = host, token, extra
        self.looked_up = 0
        self.error: Exception | None = None

    async def look_up(self, conn_id: str) -> PandaConnection:
        self.looked_up += 1
        if self.error is not None:
            raise self.error
        return parse(conn_id, host=self.host, password=self.token, extra={"vo": "wlcg", **self.extra})


def only(panda: ScriptedPanda, token: str) -> None:
    def script(handler: Any, seen: Any) -> None:
        good = seen.headers.get("Authorization") == f"Bearer {token}"
        (envelope([]) if good else status(403, EXPIRED))(handler, seen)

    panda.on(LISTING, script)


async def test_who_waits_already_goes_on_with_an_edited_token(
    panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REREAD_AFTER", 0.0)
    row = Row(panda.url, "old")
    only(panda, "old")
    shared = await shared_connection("c", look_up=row.look_up)
    assert await shared.client.statuses("k") == []
    only(panda, "new")
    row.token = "new"
    assert await shared.client.statuses("k") == []
    assert row.looked_up == 2
    again = await shared_connection("c", look_up=row.look_up)
    assert again.panda.endpoint.token == "new"


async def test_a_refused_token_is_read_again_only_now_and_then(panda: ScriptedPanda) -> None:
    row = Row(panda.url, "wrong")
    only(panda, "right")
    shared = await shared_connection("c", look_up=row.look_up)
    for _ in range(5):
        with pytest.raises(GridAuthError):
            await shared.client.statuses("k")
    assert row.looked_up == 1
    assert len(panda.seen) == 5  # and the same token is not sent twice for one call


async def test_an_expired_token_is_told_before_use(panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REREAD_AFTER", 0.0)
    row = Row(panda.url, lived(-5))
    shared = await shared_connection("c", look_up=row.look_up)
    with pytest.raises(GridAuthError, match=r"field password .* expired"):
        await shared.client.statuses("k")
    assert panda.seen == []
    row.error = ConfigurationError("connection c", "it is gone", "Make it")
    with pytest.raises(GridAuthError, match=r"field password .* expired"):
        await shared.client.statuses("k")


async def test_a_token_for_another_server_stays_away_from_this_one(
    panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REREAD_AFTER", 0.0)
    row = Row(panda.url, "old")
    only(panda, "old")
    shared = await shared_connection("c", look_up=row.look_up)
    only(panda, "of the other")
    row.host, row.token = "http://127.0.0.1:1", "of the other"
    with pytest.raises(GridAuthError):
        await shared.client.statuses("k")
    assert {seen.headers["Authorization"] for seen in panda.seen} == {"Bearer old"}


@pytest.mark.parametrize(
    ("before", "now", "extra", "same"),
    [
        (jwt(sub="me", jti=1), jwt(sub="me", jti=2), {}, True),
        (jwt(sub="me"), jwt(sub="you"), {}, False),
        ("opaque", "other", {}, False),
        (jwt(sub="me", jti=1), jwt(sub="me", jti=2), {"vo": "wlcg.production"}, False),
        (jwt(sub="me", jti=1), jwt(sub="me", jti=2), {"timeout": 7}, False),
    ],
)
async def test_a_usual_look_up_keeps_the_client_of_the_same_owner(
    panda: ScriptedPanda,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    now: str,
    extra: dict[str, Any],
    same: bool,
) -> None:
    row = Row(panda.url, before)
    first = await shared_connection("c", look_up=row.look_up)
    row.token, row.extra = now, extra
    monkeypatch.setattr(connections, "FRESH_FOR", 0.0)
    second = await shared_connection("c", look_up=row.look_up)
    assert (second.client is first.client) is same
    only(panda, now)
    assert await second.client.statuses("k") == []


async def test_an_edited_secret_is_found_by_one_look_up_for_all_who_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REREAD_AFTER", 0.1)
    row = Row("http://127.0.0.1:1", "token", instance_secret="old")
    marks = {}
    for secret in ("old", "new"):
        row.extra = {"instance_secret": secret}
        marks[secret] = (await row.look_up("c")).key_mark("key")
    assert marks["old"] != marks["new"]
    row.extra, row.looked_up = {"instance_secret": "old"}, 0

    def fits(secret: str) -> Callable[[PandaConnection], bool]:
        return lambda panda: panda.key_mark("key") == marks[secret]

    old = await connection_that_fits("c", fits("old"), look_up=row.look_up)
    row.extra = {"instance_secret": "new"}
    assert await connection_that_fits("c", fits("old"), look_up=row.look_up) is old
    assert row.looked_up == 1
    found = await asyncio.gather(*(connection_that_fits("c", fits("new"), look_up=row.look_up) for _ in range(100)))
    assert {shared.panda.instance_secret for shared in found} == {"new"}
    assert row.looked_up == 2
    # The old one is nowhere any more: whoever needs it is given what there is.
    assert (await connection_that_fits("c", fits("old"), look_up=row.look_up)).panda.instance_secret == "new"
    assert row.looked_up == 3
