"""Where the tokens of one endpoint are kept: its field or file, and what renewals made of them since.

An issuer may rotate refresh tokens: each renewal then makes the one before worthless, so that what comes back must be
kept where all processes of this machine look. A JSON token file is rewritten itself, as panda-client does with its
``.token``; all else goes to a file in a folder of this user's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from airflow_provider_panda.exceptions import GridAuthError
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint, auth_config_url
from airflow_provider_panda.grid.identity.tokens import Tokens, newest, parse_tokens, tokens_in

log = logging.getLogger(__name__)

FOLDER: Final = "airflow-provider-panda"

_Stamp = tuple[int, int, int]


class Turn:
    """The right to renew.

    :param file: descriptor of the locked file, or None where nothing can be locked.
    """

    def __init__(self, file: int | None) -> None:
        self._file = file

    def end(self) -> None:
        """Let the next one renew."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


class TokenStore:
    """The tokens of one endpoint. Files are read again when they change. Safe to use from many threads."""

    def __init__(self, endpoint: PandaEndpoint) -> None:
        self._endpoint = endpoint
        self._guard = threading.Lock()
        self._texts: dict[str, tuple[_Stamp, str]] = {}
        self._memory: dict[str, Tokens] = {}
        """Renewals that could not be written anywhere, by the key of their seed."""

    @property
    def source(self) -> str:
        """Where the tokens come from, in words."""
        if self._endpoint.auth is AuthKind.TOKEN:
            return "connection field password (token)"
        if self._endpoint.auth is AuthKind.REFRESH and self._endpoint.refresh_token:
            return "connection field refresh_token"
        return f"token file {self._endpoint.token_file}"

    def read(self, *, anew: bool = False) -> Tokens:
        """Return the tokens as they are now.

        :param anew: whether files are read that do not seem to have changed.
        :raises GridAuthError: a file is missing, unreadable or holds none.
        """
        if anew:
            with self._guard:
                self._texts.clear()
        given = self._given()
        if given.refresh_token is None:
            return given
        kept = self._kept(given)
        if kept is None:
            return given
        return Tokens(id_token=newest(given, kept), refresh_token=kept.refresh_token or given.refresh_token)

    def write(self, before: Tokens, answer: dict[str, Any]) -> None:
        """Keep what the issuer answered to a renewal.

        :param before: the tokens that were renewed.
        :param answer: the issuer's answer.
        """
        got = tokens_in(answer)
        merged = {"refresh_token": before.refresh_token, **{k: v for k, v in answer.items() if v is not None}}
        with self._guard:
            self._texts.clear()
        given = self._given()
        problem = self._rewrite(merged)
        if problem is None:
            return
        key = self._key(given.refresh_token or "")
        folder = private_folder()
        path = None if folder is None else folder / f"{key}.json"
        try:
            if path is None:
                raise PermissionError(13, "no private folder can be made")
            write_private(path, json.dumps(merged))
        except OSError as error:
            with self._guard:
                self._memory[key] = Tokens(
                    id_token=got.id_token, refresh_token=got.refresh_token or before.refresh_token
                )
            log.warning(
                "The renewed token of the %s cannot be kept on disk (%s); every process renews its own, and an issuer "
                "that rotates refresh tokens will refuse all but one of them",
                self.source,
                error.strerror,
            )

    def take_turn(self) -> Turn | None:
        """Become the only one of this machine who renews, until the turn ends; None if another is. Does not wait."""
        folder = private_folder()
        if folder is None:
            return Turn(None)  # no place for a lock
        try:
            file = os.open(folder / f"{self._lock_key()}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            return Turn(None)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            return None if isinstance(error, BlockingIOError) else Turn(None)
        return Turn(file)

    def _given(self) -> Tokens:
        """Return what the field or the file holds."""
        endpoint = self._endpoint
        if endpoint.auth is AuthKind.TOKEN:
            return Tokens(id_token=endpoint.token or "")
        if endpoint.auth is AuthKind.REFRESH and endpoint.refresh_token:
            return Tokens(refresh_token=endpoint.refresh_token.strip())
        path = endpoint.token_file
        if not path:
            raise GridAuthError("The connection field token_file is empty. Give the path of a token", url=endpoint.url)
        try:
            text = self._text(Path(path))
        except OSError as error:
            raise GridAuthError(
                f"The token file {path} cannot be read ({error.strerror}). Check the connection field token_file",
                url=endpoint.url,
            ) from None
        tokens = parse_tokens(text, bare_is_refresh=endpoint.auth is AuthKind.REFRESH)
        if tokens is None:
            raise GridAuthError(
                f"The {self.source} is JSON without id_token and refresh_token. Put the bare id token there, or the "
                "file .token that panda-client makes",
                url=endpoint.url,
            )
        return tokens

    def _kept(self, given: Tokens) -> Tokens | None:
        key = self._key(given.refresh_token or "")
        with self._guard:
            if key in self._memory:
                return self._memory[key]
        folder = private_folder()
        if folder is None:
            return None
        try:
            return parse_tokens(self._text(folder / f"{key}.json"), bare_is_refresh=False)
        except OSError:
            return None

    def _rewrite(self, answer: dict[str, Any]) -> OSError | None:
        """Write a JSON token file; return why not, if not."""
        path = self._endpoint.token_file
        if not path or (self._endpoint.auth is AuthKind.REFRESH and self._endpoint.refresh_token):
            return FileNotFoundError(2, "no file")
        try:
            real = Path(path).resolve()
            text = real.read_text(encoding="utf-8", errors="replace").strip()
            if not text.startswith("{"):
                return PermissionError(1, "not a JSON file")
            held = json.loads(text)
            write_private(real, json.dumps({**held, **answer}), mode=stat.S_IMODE(real.stat().st_mode))
        except (OSError, ValueError) as error:
            return error if isinstance(error, OSError) else OSError(22, "it changed meanwhile")
        return None

    def _text(self, path: Path) -> str:
        found = path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        with self._guard:
            known = self._texts.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1]
        text = path.read_text(encoding="utf-8", errors="replace")
        with self._guard:
            self._texts[str(path)] = (stamp, text)
        return text

    def _key(self, seed: str) -> str:
        named = "\n".join((auth_config_url(self._endpoint), self._endpoint.vo, seed))
        return hashlib.sha256(named.encode()).hexdigest()[:40]

    def _lock_key(self) -> str:
        endpoint = self._endpoint
        if endpoint.auth is AuthKind.REFRESH and endpoint.refresh_token:
            return self._key(endpoint.refresh_token.strip())
        return self._key(f"file {Path(endpoint.token_file or '').resolve()}")


def private_folder() -> Path | None:
    """Return a folder that only this user can read, made if need be, or None if there is no place for one."""
    places = []
    with contextlib.suppress(RuntimeError):
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / FOLDER)
    places.append(Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}")
    for place in places:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.lstat()
        except OSError:
            continue
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        if ours and os.access(place, os.W_OK | os.X_OK):
            return place
    return None


def write_private(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file in one step.

    :param mode: its permissions; only its owner's by default.
    :raises OSError: it cannot be written; what was there stays.
    """
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
