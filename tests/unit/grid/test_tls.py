"""TLS to PanDA: a CA of our own, host names, client certificates, their expiry and their renewal."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridAuthError, GridUnreachableError
from airflow_provider_panda.grid.client import PandaClient
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.identity.certificates import validity_of
from airflow_provider_panda.grid.watch import AsyncPandaClient
from tests.stack.certificates import Authority
from tests.stack.scripted_panda import ScriptedPanda, envelope, scripted_panda


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def panda(authority: Authority) -> Iterator[ScriptedPanda]:
    with serving(authority.server(authority.issue("server", host="127.0.0.1"), clients=True)) as server:
        yield server


@contextmanager
def serving(context: ssl.SSLContext) -> Iterator[ScriptedPanda]:
    with scripted_panda(context) as server:
        server.on("system/is_alive", envelope())
        server.on("task/get_tasks_detailed_info_since", envelope([]))
        server.on("file_server/upload_cache_file", envelope())
        yield server


def client(panda: ScriptedPanda, authority: Authority | None, **fields: Any) -> PandaClient:
    ca_path = str(authority.ca_file) if authority else None
    return PandaClient(PandaEndpoint(url=panda.url, ca_path=ca_path, **fields))


def test_a_server_of_a_known_ca(panda: ScriptedPanda, authority: Authority) -> None:
    assert client(panda, authority).call("hello").success
    assert panda.seen[-1].peer is None


def test_a_server_of_an_unknown_ca(panda: ScriptedPanda) -> None:
    with pytest.raises(GridUnreachableError, match=r"not trusted.*ca_path"):
        client(panda, None).call("hello")
    assert client(panda, None, verify_host=False).call("hello").success


def test_a_server_of_another_name(authority: Authority) -> None:
    with serving(authority.server(authority.issue("elsewhere", host="elsewhere.example"))) as panda:
        with pytest.raises(GridUnreachableError, match="IP address mismatch"):
            client(panda, authority).call("hello")
        assert panda.seen == []


def test_a_server_whose_certificate_expired(authority: Authority) -> None:
    old = authority.issue("old", host="127.0.0.1", ends=timedelta(days=-1))
    with serving(authority.server(old)) as panda, pytest.raises(GridUnreachableError, match="certificate has expired"):
        client(panda, authority).call("hello")


async def test_a_client_certificate_says_who_asks(panda: ScriptedPanda, authority: Authority) -> None:
    proxy = authority.issue("Grid User")
    fields: dict[str, Any] = {"auth": AuthKind.X509, "proxy_file": str(proxy), "vo": "wlcg"}
    synchronous = client(panda, authority, **fields)
    assert synchronous.call("hello").success
    assert synchronous.upload("sources.x.tar.gz", b"content").success
    assert await AsyncPandaClient(synchronous.endpoint).statuses("kind") == []
    assert [seen.peer for seen in panda.seen] == ["Grid User"] * 3
    assert all("Authorization" not in seen.headers for seen in panda.seen)


def test_a_renewed_proxy_is_used_at_once(panda: ScriptedPanda, authority: Authority, tmp_path: Path) -> None:
    proxy = tmp_path / "x509up"
    shutil.copy(authority.issue("first"), proxy)
    held = client(panda, authority, auth=AuthKind.X509, proxy_file=str(proxy))
    held.call("hello")
    shutil.copy(authority.issue("second"), proxy)
    held.call("hello")
    assert [seen.peer for seen in panda.seen] == ["first", "second"]


@pytest.mark.parametrize(
    ("begins", "ends", "says"),
    [
        (timedelta(days=-9), timedelta(seconds=-1), "expired at .*UTC. Renew it"),
        (timedelta(days=1), timedelta(days=9), "good only from .*Check the clock"),
    ],
)
def test_a_proxy_that_is_not_good_now_is_told_before_use(
    panda: ScriptedPanda, authority: Authority, tmp_path: Path, begins: timedelta, ends: timedelta, says: str
) -> None:
    proxy = tmp_path / "x509up"
    shutil.copy(authority.issue("wrong", begins=begins, ends=ends), proxy)
    held = client(panda, authority, auth=AuthKind.X509, proxy_file=str(proxy))
    for _ in range(2):
        with pytest.raises(GridAuthError, match=says) as caught:
            held.call("hello")
        assert str(proxy) in str(caught.value)
    assert panda.seen == []
    shutil.copy(authority.issue("right"), proxy)
    assert held.call("hello").success


def test_the_shortest_lived_certificate_of_a_file_counts(authority: Authority, tmp_path: Path) -> None:
    proxy = tmp_path / "chain.pem"
    long, short = authority.issue("long"), authority.issue("short", ends=timedelta(hours=1))
    proxy.write_text(long.read_text() + short.read_text())
    told, expected = validity_of(proxy), validity_of(short)
    assert told is not None
    assert expected is not None
    assert (told.ends, told.subject) == (expected.ends, "CN=long")
    assert validity_of(tmp_path / "nowhere") is None


def test_certificates_are_read_where_a_call_is_encrypted_and_not_before(panda: ScriptedPanda) -> None:
    """It takes a task's process longer than all its calls."""
    with scripted_panda() as plain:
        plain.on("system/is_alive", envelope())
        endpoint = PandaEndpoint(url=plain.url, cache_url=panda.url, ca_path="/no/such/file")
        mine = PandaClient(endpoint)
        assert mine.call("hello").success
        with pytest.raises(GridAuthError, match="ca_path"):
            mine.in_cache("there")


def test_a_client_that_began_without_encryption_verifies_when_it_is_encrypted(
    panda: ScriptedPanda, authority: Authority
) -> None:
    panda.on("/cache/there", envelope())
    with scripted_panda() as plain:
        plain.on("system/is_alive", envelope())
        for ca_path, trusted in ((str(authority.ca_file), True), (None, False)):
            mine = PandaClient(PandaEndpoint(url=plain.url, cache_url=panda.url, ca_path=ca_path))
            assert mine.call("hello").success
            if trusted:
                assert mine.in_cache("there")
            else:
                with pytest.raises(GridUnreachableError, match="not trusted"):
                    mine.in_cache("there")
