"""Calls of PanDA's module ``creds``: user secrets."""

from __future__ import annotations

import json

from airflow_provider_panda.local.api.registry import Answer, Call, Module

_module = Module("creds")
CALLS = _module.calls

SECRET_LIMIT = 1024 * 1024


@_module.call("POST")
def set_user_secrets(call: Call, key: str | None = None, value: str | None = None) -> Answer:
    """Keep a secret; no value deletes it, no key deletes all."""
    if value is not None and len(value) > SECRET_LIMIT:
        return Answer(False, f"the secret is over {SECRET_LIMIT} characters")
    call.grid.store.secrets.set(call.user.name, key, value)
    call.grid.store.commit()
    return Answer(True, "OK")


@_module.call(None)
def get_user_secrets(call: Call, keys: list[str] | None = None) -> Answer:
    """Return the caller's secrets, as JSON text."""
    secrets = call.grid.store.secrets.of(call.user.name)
    if keys:
        secrets = {k: v for k, v in secrets.items() if k in keys}
    if not secrets:
        return Answer(True, f"No secrets found for user {call.user.name}")
    return Answer(True, "", json.dumps(secrets))
