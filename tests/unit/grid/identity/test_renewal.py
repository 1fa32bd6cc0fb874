"""Renewal by refresh token: before expiry, once, kept for others, and with the reason where it fails."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridServerError, GridUnreachableError
from airflow_provider_panda.grid.client import PandaClient
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.identity import renewal as renewal_module
from airflow_provider_panda.grid.identity import tokenstore
from airflow_provider_panda.grid.session import Reply, Request, Session, token_refused
from tests.stack.scripted_issuer import EXPIRED, ScriptedIssuer, lived
from tests.stack.scripted_panda import ScriptedPanda, body, envelope, scripted_panda, slowly, status

PATH = "system/is_alive"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / tokenstore.FOLDER


@pytest.fixture
def panda() -> Iterator[ScriptedPanda]:
    with scripted_panda() as server:
        yield server


@pytest.fixture
def issuer(panda: ScriptedPanda) -> ScriptedIssuer:
    made = ScriptedIssuer(panda)
    made.guard(PATH)
    return made


def endpoint(panda: ScriptedPanda, **fields: Any) -> PandaEndpoint:
    given = {"auth": AuthKind.REFRESH, "refresh_token": "refresh-0", **fields}
    if given["auth"] is AuthKind.TOKEN_FILE:
        given["refresh_token"] = None
    return PandaEndpoint(url=panda.url, vo="wlcg", **given)


async def ask(session: Session) -> Reply:
    return await session.send(Request(method="GET", url=f"{session.endpoint.url}/api/v1/{PATH}", headers={}))


def token_file(tmp_path: Path, **held: Any) -> Path:
    path = tmp_path / ".token"
    path.write_text(json.dumps(held))
    path.chmod(0o640)
    return path


async def test_a_refresh_token_is_enough(panda: ScriptedPanda, issuer: ScriptedIssuer, cache: Path) -> None:
    session = Session(endpoint(panda))
    assert (await ask(session)).status == 200
    assert (await ask(session)).status == 200
    assert issuer.used == ["refresh-0"]
    (file,) = cache.glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert session.credentials.user_name() == "Grid User"


async def test_who_starts_later_uses_what_is_kept(panda: ScriptedPanda, issuer: ScriptedIssuer) -> None:
    issuer.rotates = True
    for _ in range(3):
        assert (await ask(Session(endpoint(panda)))).status == 200
    assert issuer.used == ["refresh-0"]


async def test_a_rotated_refresh_token_is_kept_and_used(panda: ScriptedPanda, issuer: ScriptedIssuer) -> None:
    issuer.rotates, issuer.life = True, 0.0
    session = Session(endpoint(panda))
    for _ in range(2):
        with pytest.raises(GridAuthError, match="connection field refresh_token expired"):
            await ask(session)  # tokens without a life: each call has to renew
    issuer.life = 3600
    assert (await ask(Session(endpoint(panda)))).status == 200
    assert issuer.used == ["refresh-0", "refresh-1", "refresh-2"]


async def test_a_new_refresh_token_in_the_connection_starts_anew(panda: ScriptedPanda, issuer: ScriptedIssuer) -> None:
    issuer.rotates = True
    await ask(Session(endpoint(panda)))
    issuer.accepts = "from a new login"
    assert (await ask(Session(endpoint(panda, refresh_token="from a new login")))).status == 200
    assert issuer.used == ["refresh-0", "from a new login"]


async def test_many_calls_at_once_renew_once(panda: ScriptedPanda, issuer: ScriptedIssuer) -> None:
    panda.on("/token", slowly(0.2, issuer.answer))
    issuer.rotates = True
    session = Session(endpoint(panda))
    replies = await asyncio.gather(*(ask(session) for _ in range(20)))
    assert {reply.status for reply in replies} == {200}
    assert len(issuer.used) == 1


def test_threads_and_loops_of_a_process_renew_once(panda: ScriptedPanda, issuer: ScriptedIssuer) -> None:
    panda.on("/token", slowly(0.2, issuer.answer))
    issuer.rotates = True
    client = PandaClient(endpoint(panda))

    def in_a_loop_of_its_own(_: int) -> int:
        return asyncio.run(ask(Session(endpoint(panda)))).status

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(client.call, "hello") for _ in range(8)]
        statuses = list(pool.map(in_a_loop_of_its_own, range(4)))
        assert all(call.result().success for call in calls)
    assert statuses == [200] * 4
    assert len(issuer.used) == 1


def _call_in_a_process(given: PandaEndpoint, ready: Any, told: Any) -> None:
    ready.wait(30)
    told.put(asyncio.run(ask(Session(given))).status)


def test_processes_of_a_machine_renew_once(panda: ScriptedPanda, issuer: ScriptedIssuer) -> None:
    panda.on("/token", slowly(0.5, issuer.answer))
    issuer.rotates = True
    context = multiprocessing.get_context("spawn")
    ready, told = context.Event(), context.Queue()
    processes = [
        context.Process(target=_call_in_a_process, args=(endpoint(panda), ready, told), daemon=True) for _ in range(3)
    ]
    for process in processes:
        process.start()
    ready.set()
    assert [told.get(timeout=60) for _ in processes] == [200] * 3
    for process in processes:
        process.join(30)
    assert issuer.used == ["refresh-0"]


@pytest.mark.parametrize("kind", [AuthKind.TOKEN_FILE, AuthKind.REFRESH])
async def test_the_file_of_panda_client_is_renewed_in_place(
    panda: ScriptedPanda, issuer: ScriptedIssuer, tmp_path: Path, cache: Path, kind: AuthKind
) -> None:
    issuer.rotates = True
    file = token_file(tmp_path, id_token=lived(-5), refresh_token="refresh-0", scope="openid")
    given = endpoint(panda, auth=kind, refresh_token=None, token_file=str(file))
    assert (await ask(Session(given))).status == 200
    held = json.loads(file.read_text())
    assert (held["id_token"], held["refresh_token"], held["scope"]) == (issuer.given[-1], "refresh-1", "openid")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(cache.glob("*.json")) == []


async def test_a_token_of_that_file_that_is_good_is_used_as_it_is(
    panda: ScriptedPanda, issuer: ScriptedIssuer, tmp_path: Path
) -> None:
    token = lived(3000)
    issuer.given.append(token)
    file = token_file(tmp_path, id_token=token, refresh_token="refresh-0")
    assert (await ask(Session(endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file))))).status == 200
    assert issuer.used == []


async def test_a_refresh_token_without_answering_rotation_stays_in_the_file(
    panda: ScriptedPanda, issuer: ScriptedIssuer, tmp_path: Path
) -> None:
    file = token_file(tmp_path, refresh_token="refresh-0")
    await ask(Session(endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file))))
    assert json.loads(file.read_text())["refresh_token"] == "refresh-0"


async def test_a_file_that_cannot_be_written_leaves_the_renewed_token_in_the_cache(
    panda: ScriptedPanda, issuer: ScriptedIssuer, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.rotates = True
    file = token_file(tmp_path, id_token=lived(-5), refresh_token="refresh-0")
    before = file.read_text()
    _refuse_writing(monkeypatch, tmp_path)
    given = endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file))
    assert (await ask(Session(given))).status == 200
    assert (await ask(Session(given))).status == 200
    assert (file.read_text(), issuer.used) == (before, ["refresh-0"])
    assert len(list(cache.glob("*.json"))) == 1


def _refuse_writing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = tokenstore.write_private

    def write(path: Path, text: str, *, mode: int = 0o600) -> None:
        if path.parent == folder:
            raise PermissionError(13, "Permission denied")
        real(path, text, mode=mode)

    monkeypatch.setattr(tokenstore, "write_private", write)


async def test_without_any_place_to_keep_it_the_process_goes_on(
    panda: ScriptedPanda, issuer: ScriptedIssuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.rotates = True
    monkeypatch.setattr(tokenstore, "private_folder", lambda: None)
    session = Session(endpoint(panda))
    assert (await ask(session)).status == 200
    assert (await ask(session)).status == 200
    assert issuer.used == ["refresh-0"]
    assert "cannot be kept on disk" in caplog.text
    assert "refresh-" not in caplog.text


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder = tmp_path / "cache" / tokenstore.FOLDER
    open_folder.mkdir(parents=True)
    open_folder.chmod(0o777)
    monkeypatch.setattr(tokenstore.tempfile, "gettempdir", lambda: str(tmp_path))
    chosen = tokenstore.private_folder()
    assert chosen is not None
    assert chosen != open_folder
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700


async def test_a_token_near_its_end_is_renewed_but_does_not_depend_on_it(
    panda: ScriptedPanda, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = ScriptedIssuer(panda)
    panda.on(PATH, envelope())
    good = lived(100)
    file = token_file(tmp_path, id_token=good, refresh_token="refresh-0")
    panda.on("/token", status(503, "down"), issuer.answer)
    session = Session(endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file)))
    for _ in range(3):
        assert (await ask(session)).status == 200
    assert {seen.headers["Authorization"] for seen in panda.calls(PATH)} == {f"Bearer {good}"}
    assert len(panda.calls("/token")) == 1  # not one for every call
    assert "could not be renewed" in caplog.text
    fresh = Session(session.endpoint)
    assert (await ask(fresh)).status == 200
    assert panda.calls(PATH)[-1].headers["Authorization"] == f"Bearer {issuer.given[-1]}"


async def test_a_token_that_the_server_takes_for_expired_is_renewed_once(
    panda: ScriptedPanda, issuer: ScriptedIssuer, tmp_path: Path
) -> None:
    # By our clock it is good for long: the clock may be the one that is wrong.
    file = token_file(tmp_path, id_token=lived(3000), refresh_token="refresh-0")
    session = Session(endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file)))
    assert (await ask(session)).status == 200
    assert len(panda.calls(PATH)) == 2
    issuer.given.append("nobody has this one")
    refused = await ask(session)
    assert (refused.status, len(issuer.used)) == (403, 1)  # just renewed: that does not help


async def test_a_file_that_was_replaced_is_read_after_a_refusal(
    panda: ScriptedPanda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    panda.on(PATH, _takes_only("two"))
    session = Session(endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file)))
    assert (await ask(session)).status == 403
    assert len(panda.calls(PATH)) == 1  # the same token is not tried twice
    file.write_text("two")
    frozen = (1, 1, 1)
    monkeypatch.setattr(type(session.credentials.store), "_text", _text_with_stamp(frozen))
    session.credentials.store._texts[str(file)] = (frozen, "one")
    assert (await ask(session)).status == 200
    assert [seen.headers["Authorization"] for seen in panda.calls(PATH)[1:]] == ["Bearer one", "Bearer two"]


def _text_with_stamp(stamp: tuple[int, int, int]) -> Any:
    """A file system whose times are too coarse to tell that a file was replaced."""

    def text(self: Any, path: Path) -> str:
        if str(path) not in self._texts:
            self._texts[str(path)] = (stamp, path.read_text())
        return str(self._texts[str(path)][1])

    return text


def _takes_only(token: str) -> Any:
    def script(handler: Any, seen: Any) -> None:
        good = seen.headers.get("Authorization") == f"Bearer {token}"
        (envelope() if good else status(403, EXPIRED))(handler, seen)

    return script


async def test_a_fixed_token_is_read_again_from_its_origin(panda: ScriptedPanda) -> None:
    fixed = {"auth": AuthKind.TOKEN, "refresh_token": None}
    panda.on(PATH, _takes_only("new"))
    asked = 0

    async def reread() -> PandaEndpoint:
        nonlocal asked
        asked += 1
        return endpoint(panda, **fixed, token="new")

    session = Session(endpoint(panda, **fixed, token="old"), reread=reread)
    replies = await asyncio.gather(*(ask(session) for _ in range(5)))
    assert {reply.status for reply in replies} == {200}
    expired = Session(endpoint(panda, **fixed, token=lived(-5)), reread=reread)
    assert (await ask(expired)).status == 200
    before = asked
    assert (await ask(session)).status == 200
    assert asked == before


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        (403, EXPIRED, True),
        (401, "", True),
        (403, "ERROR : Token authentication failed. Not a member of the wlcg group", False),
        (403, "ERROR : method nosuch is forbidden", False),
        (200, "Invalid token", False),
        (500, "Invalid token", False),
    ],
)
def test_which_refusals_are_the_tokens_fault(code: int, text: str, refused: bool) -> None:
    assert token_refused(code, text.encode()) is refused


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (
            lambda issuer: setattr(issuer, "accepts", "other"),
            GridAuthError,
            r"refuses the refresh token .*invalid_grant",
        ),
        (lambda issuer: issuer.panda.on("/token", status(500, "boom")), GridServerError, "HTTP 500"),
        (lambda issuer: issuer.panda.on("/token", body("{}")), GridAuthError, "renews no id token"),
        (lambda issuer: issuer.panda.on("/token", body("x" * 2_000_000)), GridServerError, "more than a token"),
        (lambda issuer: issuer.panda.on("/auth/wlcg_auth_config.json", status(404)), GridError, "auth_config_url"),
        (lambda issuer: issuer.panda.on("/auth/wlcg_auth_config.json", body("<html>")), GridError, "no page"),
        (lambda issuer: issuer.page("client_id", None), GridError, "client_id"),
        (lambda issuer: issuer.page("oidc_config_url", "http://127.0.0.1:1/"), GridUnreachableError, "refused"),
        (lambda issuer: issuer.page("oidc_config_url", "nonsense"), GridUnreachableError, "does not answer"),
    ],
)
async def test_a_failure_names_its_cause_and_shows_no_token(
    panda: ScriptedPanda,
    issuer: ScriptedIssuer,
    change: Any,
    kind: type[GridError],
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    change(issuer)
    if issuer.accepts == "refresh-0":
        issuer.accepts = "sesame-token"
    session = Session(endpoint(panda, refresh_token="sesame-token"))
    for _ in range(2):
        with pytest.raises(kind, match=says) as caught:
            await ask(session)
        assert 'sesame-token"' not in str(caught.value)
    assert panda.calls(PATH) == []
    assert len(panda.calls("/token")) <= 1  # the second call was told what the first one found
    assert "sesame" not in caplog.text


async def test_another_machine_that_renewed_first_is_noticed(
    panda: ScriptedPanda, issuer: ScriptedIssuer, tmp_path: Path
) -> None:
    """Two machines share a file and no lock: the one whose refresh token was rotated away finds the new one there."""
    file = token_file(tmp_path, id_token=lived(-5), refresh_token="refresh-0")
    issuer.accepts = "refresh-elsewhere"
    token = lived(3000)
    issuer.given.append(token)

    def refused_while_replaced(handler: Any, seen: Any) -> None:
        file.write_text(json.dumps({"id_token": token, "refresh_token": "refresh-elsewhere"}))
        issuer.answer(handler, seen)

    panda.on("/token", refused_while_replaced)
    assert (await ask(Session(endpoint(panda, auth=AuthKind.TOKEN_FILE, token_file=str(file))))).status == 200
    assert issuer.used == ["refresh-0"]


async def test_a_caller_that_gives_up_does_not_cut_the_renewal_off(
    panda: ScriptedPanda, issuer: ScriptedIssuer
) -> None:
    issuer.rotates = True
    panda.on("/token", slowly(0.5, issuer.answer))
    session = Session(endpoint(panda))
    call = asyncio.create_task(ask(session))
    while not panda.calls("/token"):
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await ask(session)).status == 200
    assert issuer.used == ["refresh-0"]


async def test_a_lock_that_stays_is_told(
    panda: ScriptedPanda, issuer: ScriptedIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal_module, "LOCK_PATIENCE", 0.3)
    turn = Session(endpoint(panda)).credentials.store.take_turn()
    assert turn is not None
    with pytest.raises(GridUnreachableError, match="Another process"):
        await ask(Session(endpoint(panda)))
    turn.end()
    assert (await ask(Session(endpoint(panda)))).status == 200


def test_nothing_of_a_renewal_is_in_a_repr() -> None:
    assert "sesame" not in repr(PandaEndpoint(url="https://x", refresh_token="sesame"))
