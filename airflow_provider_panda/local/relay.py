"""Commands for iDDS that reach PanDA (facts/panda.md section 4)."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from airflow_provider_panda.local.auth import Identity

log = logging.getLogger(__name__)

NO_SECTION: Final = "No section: 'rest'"
"""What the real server's configuration says when it knows no iDDS."""

IDDS_DEADLINE: Final = 60.0
COMMANDS_AT_ONCE: Final = 8
FREE_WORKFLOW_COMMANDS: Final = ("get_status",)
OWNER_WORKFLOW_COMMANDS: Final = ("abort", "suspend", "resume", "retry", "finish")

Outcome = tuple[bool, Any]
"""``(success, value or message)``, as the old API's lists."""


class Relay(Protocol):
    """Whatever passes commands to an iDDS."""

    async def command(
        self,
        identity: Identity,
        name: str,
        *,
        args: str | None,
        kwargs: str | None,
        manager: bool,
        json_outputs: bool,
    ) -> Outcome:
        """Run a command of the iDDS client (``args`` and ``kwargs`` are JSON texts)."""

    async def workflow_command(
        self, identity: Identity, name: str, *, kwargs: str | None, json_outputs: bool
    ) -> Outcome:
        """Run one of the commands that the owner of a workflow may give."""


class NoIdds:
    """The relay of a grid that no iDDS is configured for."""

    async def command(
        self,
        identity: Identity,
        name: str,
        *,
        args: str | None,
        kwargs: str | None,
        manager: bool,
        json_outputs: bool,
    ) -> Outcome:
        """Say that no iDDS is configured."""
        return False, f"failed to execute command with {NO_SECTION}"

    async def workflow_command(
        self, identity: Identity, name: str, *, kwargs: str | None, json_outputs: bool
    ) -> Outcome:
        """Say that no iDDS is configured."""
        return False, f"server failed with {NO_SECTION}"


class WrongHostError(Exception):
    """A command names an iDDS that the operator of the grid has not named."""


def command_for(name: str, host: str) -> str:
    """Return the command in ``command`` or ``command+host``.

    The real server goes to whatever host stands there, and shows its own credentials to it. This one goes only to the
    host that it was started with, for a token of its relay acts for every user at that iDDS.

    :raises WrongHostError: the host is another one.
    """
    command, plus, named = name.partition("+")
    if plus and named.rstrip("/").lower() != host.rstrip("/").lower():
        raise WrongHostError(f"iDDS host {named[:200]!r}: this server relays to {host} only")
    return command


class IddsRelay:
    """Passes commands to a real iDDS, with the installed iDDS client, as the relay's own user for the one who calls.

    Each command runs in a thread of its own, so that neither a slow iDDS nor the client's blocking calls stop the
    loop; the threads end with the process, whatever they wait for.

    :param host: base URL of iDDS.
    :param token: makes the id token that the relay shows; iDDS must count its ``name`` among its super users, or all
        requests end up with an owner who may not touch them (facts/idds.md section 8).
    :param vo: virtual organisation of that token; iDDS has a section of this name in its auth.cfg.
    :param deadline: seconds after which a command counts as failed.
    :param at_once: commands that may be under way.
    """

    def __init__(
        self,
        host: str,
        *,
        token: Callable[[], str],
        vo: str,
        deadline: float = IDDS_DEADLINE,
        at_once: int = COMMANDS_AT_ONCE,
    ) -> None:
        self._host, self._token, self._vo, self._deadline = host.rstrip("/"), token, vo, deadline
        self._places = asyncio.Semaphore(at_once)

    async def command(
        self,
        identity: Identity,
        name: str,
        *,
        args: str | None,
        kwargs: str | None,
        manager: bool,
        json_outputs: bool,
    ) -> Outcome:
        """Run a command of the iDDS client (``args`` and ``kwargs`` are JSON texts)."""

        def run() -> Outcome:
            from airflow_provider_panda.local import idds_client

            session = idds_client.Session(self._host, token=self._token(), vo=self._vo, timeout=self._deadline)
            command = command_for(name, self._host)
            offered = idds_client.MANAGER_COMMANDS if manager else idds_client.CLIENT_COMMANDS
            if command not in offered:
                kind = "ClientManager" if manager else "Client"
                return False, f"{command} is not a command of iDDS {kind}"
            positional = idds_client.decode_arguments(args, list, build=manager)
            named = idds_client.decode_arguments(kwargs, dict, build=manager)
            target = session.manager(json_outputs=json_outputs) if manager else session.client
            session.act_for(identity.name)
            return True, idds_client.plain(getattr(target, command)(*positional, **named))

        log.info("iDDS: %r for %s", name[:200], identity.name)
        return await self._answer(run, "failed to execute command with")

    async def workflow_command(
        self, identity: Identity, name: str, *, kwargs: str | None, json_outputs: bool
    ) -> Outcome:
        """Run one of the commands that the owner of a workflow may give; anyone may ask for its status."""

        def run() -> Outcome:
            from airflow_provider_panda.local import idds_client

            named = idds_client.decode_arguments(kwargs, dict, build=True)
            command = command_for(name, self._host)
            if command not in FREE_WORKFLOW_COMMANDS + OWNER_WORKFLOW_COMMANDS:
                return False, f"{command} is unsupported"
            session = idds_client.Session(self._host, token=self._token(), vo=self._vo, timeout=self._deadline)
            if command in OWNER_WORKFLOW_COMMANDS:
                refused = _not_owned(session.client, named.get("request_id"), identity.name)
                if refused is not None:
                    return False, refused
            if command not in idds_client.MANAGER_COMMANDS:
                return False, f"server failed with 'ClientManager' object has no attribute '{command}'"
            target = session.manager(json_outputs=json_outputs)
            session.act_for(identity.name)
            return True, idds_client.plain(getattr(target, command)(**named))

        log.info("iDDS: workflow command %r for %s", name[:200], identity.name)
        return await self._answer(run, "server failed with")

    async def _answer(self, run: Callable[[], Outcome], failure: str) -> Outcome:
        try:
            async with asyncio.timeout(self._deadline):
                return await self._in_thread(run)
        except TimeoutError:
            return False, f"{failure} no answer from iDDS within {self._deadline:g} s"
        except Exception as error:
            log.warning("iDDS: %s %s", failure, error)
            return False, f"{failure} {error}"

    async def _in_thread(self, run: Callable[[], Outcome]) -> Outcome:
        # not an executor: its threads are waited for when the process ends, for as long as iDDS keeps them
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()

        def finish(outcome: Outcome | None, error: Exception | None) -> None:
            self._places.release()
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            elif outcome is not None:
                answer.set_result(outcome)

        def body() -> None:
            outcome, failed = None, None
            try:
                outcome = run()
            except Exception as error:
                failed = error
            except BaseException as error:  # the client may want to end the process
                failed = RuntimeError(f"the iDDS client gave up: {error!r}")
            try:
                loop.call_soon_threadsafe(finish, outcome, failed)
            except RuntimeError:
                log.info("iDDS: an answer came after the grid had stopped")

        try:
            threading.Thread(target=body, name="idds-command", daemon=True).start()
        except RuntimeError:
            self._places.release()
            raise
        return await answer


def _not_owned(client: Any, request_id: Any, user: str) -> str | None:
    """Return why a user may not command this request, or None."""
    if request_id is None:
        return "request_id is missing"
    requests = client.get_requests(request_id=request_id)
    if not requests:
        return f"request {request_id} is not found"
    owner = requests[0].get("username")
    if owner and owner != user:
        return f"request {request_id} is not owned by {user}"
    return None
