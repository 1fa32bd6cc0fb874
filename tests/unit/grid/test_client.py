"""The adapter around panda-client: faults, deadlines, isolation of endpoints, nothing of the environment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_panda.exceptions import (
    GridAnswerTooLargeError,
    GridAuthError,
    GridError,
    GridRefusedError,
    GridServerError,
    GridUnreachableError,
)
from airflow_provider_panda.grid import session
from airflow_provider_panda.grid.client import PandaClient, panda_client
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from tests.stack.scripted_panda import (
    Script,
    ScriptedPanda,
    body,
    envelope,
    lose,
    refusal,
    scripted_panda,
    stall,
    status,
    trickle,
)

GUARD = 60
"""Seconds after which a call that should have ended by its deadline fails the test."""


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        yield server


def client(url: str, **fields: object) -> PandaClient:
    return PandaClient(PandaEndpoint(url=url, **fields))  # type: ignore[arg-type]


def guarded(act: Callable[[], object]) -> BaseException | object:
    """Return what a call returns or raises, in a thread that may hang without hanging the test."""
    outcome: list[BaseException | object] = []

    def run() -> None:
        try:
            outcome.append(act())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(GUARD)
    assert outcome, "the call did not end"
    return outcome[0]


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        (status(403, "ERROR : Token authentication failed. Invalid token."), GridAuthError, "Invalid token"),
        (status(500, "boom"), GridServerError, "HTTP 500: boom"),
        (body("<html><title>Sign in</title></html>", content_type="text/html"), GridServerError, "Sign in"),
        (body('{"success": true, "mess'), GridServerError, "complete JSON"),
        (lose(), GridUnreachableError, "try again"),
        (refusal("SSL secure connection is required"), GridAuthError, "wants credentials"),
    ],
)
@pytest.mark.parametrize("function", ["get_task_details_json", "getTaskStatus", "killTask", "retryTask"])
def test_faults_become_errors_whatever_panda_client_makes_of_them(
    panda: ScriptedPanda, script: Script, kind: type[GridError], says: str, function: str
) -> None:
    for path in ("task/get_detailed_info", "task/get_status", "task/kill", "task/retry"):
        panda.on(path, script)
    with pytest.raises(kind, match=says) as caught:
        client(panda.url).call(function, 7)
    assert type(caught.value) is kind


def test_the_reason_of_a_refusal_is_kept_where_panda_client_drops_it(panda: ScriptedPanda) -> None:
    panda.on("task/get_status", refusal("Task not found"))
    answer = client(panda.url).call("getTaskStatus", 5)
    assert (answer.success, answer.message) == (False, "Task not found")
    assert panda.seen[0].query == {"task_id": ["5"]}
    assert panda.seen[0].headers["Accept"] == "application/json"


def test_connection_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(GridUnreachableError, match="connection refused"):
            client(url).call("hello")


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(GridUnreachableError, match=r"resolved|Check the network"):
        client("http://nosuchhost.invalid:80", timeout=20).call("hello")


def test_tls_on_a_plain_port(panda: ScriptedPanda) -> None:
    with pytest.raises(GridUnreachableError, match=r"TLS|Check"):
        client(panda.url.replace("http:", "https:")).call("hello")


@pytest.mark.parametrize("fault", ["stall", "trickled head", "trickled body"])
def test_the_deadline_is_a_total_one(panda: ScriptedPanda, fault: str) -> None:
    script = stall(panda) if fault == "stall" else trickle(panda, head=fault == "trickled head")
    panda.on("system/is_alive", script)
    error = guarded(lambda: client(panda.url, timeout=0.5).call("hello"))
    assert isinstance(error, GridUnreachableError)
    assert "within 0.5 s" in str(error)


def test_a_dead_server_holds_up_no_other(panda: ScriptedPanda) -> None:
    with scripted_panda() as dead:
        dead.on("system/is_alive", stall(dead))
        panda.on("system/is_alive", envelope())
        slow = client(dead.url, timeout=GUARD)
        waiting = [threading.Thread(target=lambda: _ignore(slow), daemon=True) for _ in range(8)]
        for thread in waiting:
            thread.start()
        assert guarded(lambda: client(panda.url, timeout=GUARD / 2).call("hello").success) is True
        assert all(thread.is_alive() for thread in waiting)
        dead.stopping.set()
        for thread in waiting:
            thread.join(GUARD)


def _ignore(slow: PandaClient) -> None:
    with contextlib.suppress(GridError):
        slow.call("hello")


@pytest.mark.parametrize("announced", [True, False])
def test_answers_are_capped(panda: ScriptedPanda, announced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    large = b'{"success": true, "data": "' + b"x" * 20_000 + b'"}'

    def chunked(handler, seen):  # type: ignore[no-untyped-def]
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(large), 1000):
            part = large[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    panda.on("task/get_status", body(large) if announced else chunked)
    endpoint = PandaEndpoint(url=panda.url)
    limited = session.Session(endpoint, limit=10_000)
    request = session.Request(method="GET", url=f"{panda.url}/api/v1/task/get_status", headers={})

    async def ask(one: session.Session) -> session.Reply:
        try:
            return await one.send(request)
        finally:
            await one.aclose()

    with pytest.raises(GridAnswerTooLargeError, match="10000 bytes"):
        asyncio.run(ask(limited))
    assert len(asyncio.run(ask(session.Session(endpoint))).body) == len(large)


def test_nothing_of_the_environment_gets_into_a_call(
    panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: os.PathLike[str]
) -> None:
    for name, value in {
        "PANDA_URL": "http://127.0.0.1:1/server/panda",
        "PANDA_URL_SSL": "https://127.0.0.1:1/server/panda",
        "PANDACACHE_URL": "https://127.0.0.1:1/server/panda",
        "PANDA_AUTH": "oidc",
        "PANDA_AUTH_VO": "other",
        "PANDA_AUTH_ID_TOKEN": "other-token",
        "PANDA_VERIFY_HOST": "off",
        "X509_USER_PROXY": "/nonexistent",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PANDA_BEHIND_REAL_LB", raising=False)
    before = dict(os.environ)
    looked_up: list[object] = []
    monkeypatch.setattr(socket, "getfqdn", lambda *a: looked_up.append(a) or "x")
    panda.on("system/is_alive", envelope())
    panda.on("creds/set_user_secrets", envelope(message="OK"))
    mine = client(panda.url, auth=AuthKind.TOKEN, token="sesame-token", vo="wlcg")
    mine.call("hello")
    mine.call("set_user_secret", "k", "v")
    assert dict(os.environ) == before
    assert looked_up == []
    assert {seen.headers["Authorization"] for seen in panda.seen} == {"Bearer sesame-token"}
    assert {seen.headers["Origin"] for seen in panda.seen} == {"wlcg"}
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_without_credentials_none_are_sent(panda: ScriptedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "other-token")
    panda.on("system/is_alive", envelope())
    client(panda.url).call("hello")
    assert "Authorization" not in panda.seen[0].headers


def test_no_log_line_and_no_error_shows_the_token(panda: ScriptedPanda, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    panda.on("system/is_alive", envelope(), status(403, "Bearer sesame-token is bad"), lose(), status(500, "x"))
    mine = client(panda.url, auth=AuthKind.TOKEN, token="sesame-token", vo="wlcg")
    mine.call("hello")
    for _ in range(3):
        with pytest.raises(GridError) as caught:
            mine.call("hello")
        assert "sesame" not in str(caught.value)
    assert "sesame" not in caplog.text


def test_a_login_or_an_exit_of_panda_client_becomes_an_error(panda: ScriptedPanda) -> None:
    mine = client(panda.url)
    with pytest.raises(GridAuthError, match="login"):
        mine.call("get_new_token")

    def leave() -> None:
        raise SystemExit(255)

    mine._module.hello = leave  # type: ignore[attr-defined]
    with pytest.raises(GridAuthError, match="255"):
        mine.call("hello")
    with pytest.raises(GridRefusedError, match="could not make the call"):
        mine.call("no_such_function")


def test_upload_sends_the_file_under_its_bare_name(panda: ScriptedPanda) -> None:
    panda.on("file_server/upload_cache_file", envelope())
    assert client(panda.url).upload("sources.00.tar.gz", b"\x1f\x8b content").success
    sent = panda.seen[0].body
    assert b'name="file"; filename="sources.00.tar.gz"' in sent
    assert b"\x1f\x8b content" in sent


def test_the_cache_may_be_elsewhere(panda: ScriptedPanda) -> None:
    with scripted_panda() as cache:
        cache.on("file_server/upload_cache_file", envelope())
        cache.on("/cache/there", body("x"))
        mine = client(panda.url, cache_url=cache.url)
        mine.upload("sources.00.tar.gz", b"x")
        assert mine.in_cache("there")
        assert not mine.in_cache("not-there")
    assert panda.seen == []


def test_one_client_per_endpoint(panda: ScriptedPanda) -> None:
    one, same = PandaEndpoint(url=panda.url, token="a"), PandaEndpoint(url=panda.url, token="a")
    assert panda_client(one) is panda_client(same)
    assert panda_client(one) is not panda_client(PandaEndpoint(url=panda.url, token="b"))


def test_two_endpoints_in_eight_threads_never_cross() -> None:
    with scripted_panda() as first, scripted_panda() as second:
        crossed: list[str] = []
        done: list[int] = []
        for server, task_id in ((first, 1), (second, 2)):
            server.on("task/get_status", envelope(f"of-{task_id}"))
            server.on("task/kill", envelope(task_id))

        def work(number: int) -> None:
            task_id = number % 2 + 1
            url = (first, second)[number % 2].url
            endpoint = PandaEndpoint(url=url, auth=AuthKind.TOKEN, token=f"token-{task_id}", vo=f"vo{task_id}")
            for turn in range(200):
                mine = panda_client(endpoint)
                got = mine.call("killTask", task_id) if turn % 2 else mine.call("getTaskStatus", task_id)
                if got.data not in (task_id, f"of-{task_id}"):
                    crossed.append(f"{number}: {got}")
                done.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(done) == 1600
        assert crossed == []
        for server, task_id in ((first, 1), (second, 2)):
            assert len(server.seen) == 800
            assert {seen.headers["Authorization"] for seen in server.seen} == {f"Bearer token-{task_id}"}
            assert {seen.headers["Origin"] for seen in server.seen} == {f"vo{task_id}"}


def test_a_forked_child_has_connections_of_its_own(panda: ScriptedPanda) -> None:
    panda.on("system/is_alive", envelope())
    endpoint = PandaEndpoint(url=panda.url)
    panda_client(endpoint).call("hello")
    child = os.fork()
    if child == 0:
        good = False
        with contextlib.suppress(BaseException):
            good = panda_client(endpoint).call("hello").success
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert panda_client(endpoint).call("hello").success
