"""A scripted OIDC issuer on a scripted PanDA server: tokens of any life, rotation, refusals, and what was asked."""

from __future__ import annotations

import base64
import itertools
import json
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

from tests.stack.scripted_panda import ScriptedPanda, Seen, body, envelope, status

EXPIRED = "ERROR : Token authentication failed. Invalid token. Signature has expired"


def jwt(**content: Any) -> str:
    """Return an unsigned JWT with these claims."""
    parts = [{"alg": "RS256"}, content]
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + ".c2ln"


def lived(seconds: float, *, life: float = 3600.0, **content: Any) -> str:
    """Return a JWT that expires that many seconds from now."""
    now = time.time()
    return jwt(exp=now + seconds, iat=now + seconds - life, **content)


@dataclass
class ScriptedIssuer:
    """What the token endpoint gives and takes.

    :param panda: server that the issuer is on.
    :param accepts: refresh token that is good now.
    :param rotates: whether each use makes a new refresh token.
    :param life: seconds of the tokens that are given.
    """

    panda: ScriptedPanda
    accepts: str = "refresh-0"
    rotates: bool = False
    life: float = 3600.0
    given: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    serial: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.page("client_id", "panda-client")
        self.panda.on(
            "/.well-known/openid-configuration", body(json.dumps({"token_endpoint": f"{self.panda.url}/token"}))
        )
        self.panda.on("/token", self.answer)

    def page(self, name: str, value: Any) -> None:
        """Serve PanDA's page of the VO with one more entry."""
        page = {
            "client_id": "panda-client",
            "client_secret": "published",
            "oidc_config_url": f"{self.panda.url}/.well-known/openid-configuration",
            "vo": "wlcg",
        }
        self.panda.on("/auth/wlcg_auth_config.json", body(json.dumps({**page, name: value})))

    def answer(self, handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        """Answer at the token endpoint."""
        form = {name: values[0] for name, values in parse_qs(seen.body.decode()).items()}
        asked = form.get("refresh_token", "")
        self.used.append(asked)
        wanted = {"grant_type": "refresh_token", "client_id": "panda-client", "client_secret": "published"}
        if asked != self.accepts or {name: form.get(name) for name in wanted} != wanted:
            text = json.dumps({"error": "invalid_grant", "error_description": f"Invalid refresh token: {asked}"})
            body(text, 400, "application/json")(handler, seen)
            return
        number = next(self.serial)
        if self.rotates:
            self.accepts = f"refresh-{number}"
        token = lived(self.life, life=self.life, name="grid user", serial=number)
        self.given.append(token)
        answer: dict[str, Any] = {"id_token": token, "token_type": "Bearer", "expires_in": self.life}
        if self.rotates:
            answer["refresh_token"] = self.accepts
        body(json.dumps(answer), content_type="application/json")(handler, seen)

    def guard(self, path: str, data: Any = None) -> None:
        """Answer a PanDA method for the newest token only."""

        def script(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
            good = bool(self.given) and seen.headers.get("Authorization") == f"Bearer {self.given[-1]}"
            (envelope(data) if good else status(403, EXPIRED))(handler, seen)

        self.panda.on(path, script)
