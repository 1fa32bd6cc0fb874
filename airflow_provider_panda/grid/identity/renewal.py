"""Keeps the id token of one endpoint fresh: renewed before it expires, by one exchange at a time.

Within a process all calls of an event loop share one renewal; the processes of a machine take turns by a lock file, and
who comes second finds what the first one brought. Nothing here prompts, prints or ends the process.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from airflow_provider_panda.exceptions import GridAuthError, GridError, GridUnreachableError
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.identity.issuer import Issuer, find_issuer, renew
from airflow_provider_panda.grid.identity.tokens import Need, Tokens, expiry, need, utc_time
from airflow_provider_panda.grid.identity.tokenstore import TokenStore

log = logging.getLogger(__name__)

ISSUER_GOOD_FOR: Final = 3600.0
"""Seconds for which it is remembered where the issuer is."""

PAUSE: Final = 10.0
"""Seconds without a renewal after one that did not help: it failed, or the server refused the new token as well."""

LONG_PAUSE: Final = 60.0
"""The same while the token is still good, so that an issuer that hangs does not hold up call after call."""

LOCK_PATIENCE: Final = 45.0
"""Seconds to wait for another process that renews; its own exchanges end before."""

_LOCK_LOOK: Final = 0.1
"""Seconds between two looks at the lock: a file lock cannot be awaited."""


class Renewal:
    """The renewals of one endpoint on one event loop.

    :param endpoint: whose token.
    :param store: where its tokens are kept.
    :param clock: Unix time in seconds.
    """

    def __init__(self, endpoint: PandaEndpoint, store: TokenStore, *, clock: Callable[[], float] = time.time) -> None:
        self._endpoint, self._store, self._clock = endpoint, store, clock
        self._running: asyncio.Task[None] | None = None
        self._issuer: tuple[float, Issuer] | None = None
        self._failed: tuple[float, str, GridError] | None = None
        self._last = -PAUSE

    @property
    def _files(self) -> bool:
        return self._endpoint.auth in (AuthKind.TOKEN_FILE, AuthKind.REFRESH)

    async def ready(self) -> None:
        """Renew the token if it has expired or is about to, and can be renewed.

        :raises GridError: it has expired and could not be renewed.
        """
        if not self._files:
            return
        tokens = await asyncio.to_thread(self._store.read)
        wanted = need(tokens, now=self._clock())
        if tokens.refresh_token is None or wanted is Need.NONE:
            return
        failure = self._recent_failure(tokens, PAUSE if wanted is Need.NOW else LONG_PAUSE)
        if failure is None:
            try:
                await self._renewed(refused=None)
            except GridError as error:
                failure = error
                if wanted is Need.SOON:
                    log.warning("A token that is good for a while yet could not be renewed: %s", error)
        if failure is not None and wanted is Need.NOW:
            raise failure

    async def after_refusal(self, shown: Iterable[str]) -> bool:
        """Look for another token after the server refused one; return whether there is one now.

        :param shown: the headers that were sent.
        :raises GridError: it could not be renewed.
        """
        if not self._files:
            return False
        sent = tuple(shown)
        tokens = await asyncio.to_thread(self._store.read, anew=True)
        if not _among(tokens.id_token, sent) and need(tokens, now=self._clock()) is not Need.NOW:
            return True  # the file has been replaced, or another process has renewed it
        if tokens.refresh_token is None or time.monotonic() < self._last + PAUSE:
            return False
        failure = self._recent_failure(tokens, PAUSE)
        if failure is not None:
            raise failure
        log.info("The server at %s refuses a token that looked good; it is renewed", self._endpoint.url)
        await self._renewed(refused=tokens.id_token)
        return not _among((await asyncio.to_thread(self._store.read)).id_token, sent)

    def _recent_failure(self, tokens: Tokens, within: float) -> GridError | None:
        """Return the error of a renewal that was tried a moment ago with the same refresh token."""
        if self._failed is None or self._failed[1] != tokens.refresh_token:
            return None
        return copy.copy(self._failed[2]) if time.monotonic() < self._failed[0] + within else None

    async def _renewed(self, *, refused: str | None) -> None:
        """Renew, or wait for the renewal that is under way; a caller that gives up does not end it.

        An exchange that was cut off could leave a rotated refresh token with nobody.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._renew(refused), name="panda-token-renewal")
            self._running.add_done_callback(_retrieve)
        await asyncio.shield(self._running)

    async def _renew(self, refused: str | None) -> None:
        end = time.monotonic() + LOCK_PATIENCE
        while True:
            turn = await asyncio.to_thread(self._store.take_turn)
            if turn is not None:
                try:
                    await self._renew_alone(refused)
                finally:
                    turn.end()
                return
            if time.monotonic() > end:
                raise GridUnreachableError(
                    f"Another process has been renewing the token of the {self._store.source} for "
                    f"{LOCK_PATIENCE:g} s. Try again",
                    url=self._endpoint.url,
                )
            await asyncio.sleep(_LOCK_LOOK)

    async def _renew_alone(self, refused: str | None) -> None:
        tokens = await asyncio.to_thread(self._store.read, anew=True)
        if tokens.refresh_token is None or need(tokens, now=self._clock(), refused=refused) is Need.NONE:
            return  # another process was first
        try:
            await self._exchange(tokens, tokens.refresh_token)
        except GridAuthError as error:
            # Another machine that shares the file may have had the refresh token rotated meanwhile.
            again = await asyncio.to_thread(self._store.read, anew=True)
            if again.refresh_token is None or again.refresh_token == tokens.refresh_token:
                self._remember(tokens, error)
                raise
            if need(again, now=self._clock(), refused=refused) is not Need.NONE:
                await self._exchange(again, again.refresh_token)
        except GridError as error:
            self._remember(tokens, error)
            raise

    async def _exchange(self, tokens: Tokens, refresh_token: str) -> None:
        issuer = await self._known_issuer()
        answer = await renew(self._endpoint, issuer, refresh_token, source=self._store.source)
        await asyncio.to_thread(self._store.write, tokens, answer)
        self._last, self._failed = time.monotonic(), None
        expires = expiry(answer["id_token"])
        log.info(
            "Renewed the token of the %s for %s%s",
            self._store.source,
            self._endpoint.url,
            "" if expires is None else f"; it is good until {utc_time(expires)}",
        )

    async def _known_issuer(self) -> Issuer:
        if self._issuer is None or time.monotonic() > self._issuer[0] + ISSUER_GOOD_FOR:
            self._issuer = (time.monotonic(), await find_issuer(self._endpoint))
        return self._issuer[1]

    def _remember(self, tokens: Tokens, error: GridError) -> None:
        self._failed = (time.monotonic(), tokens.refresh_token or "", copy.copy(error))
        self._issuer = None


def _among(token: str | None, headers: Iterable[str]) -> bool:
    return token is None or any(value == token or value.endswith(f" {token}") for value in headers)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Take the error of a renewal that nobody waits for any more, so that asyncio does not complain about it."""
    if not task.cancelled():
        task.exception()
