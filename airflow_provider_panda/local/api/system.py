"""Calls of PanDA's module ``system``."""

from __future__ import annotations

from airflow_provider_panda.local.api.registry import Answer, Call, Module

_module = Module("system")
CALLS = _module.calls


@_module.call("GET", secure=False)
def is_alive(call: Call) -> Answer:
    """Answer that the server lives."""
    return Answer(True)


@_module.call("GET")
def get_user_attributes(call: Call) -> Answer:
    """Return who the caller is to PanDA. The real one has further, VO-specific fields."""
    return Answer(True, "", {"name": call.user.name, "nickname": call.user.nickname})


@_module.call("GET")
def get_attributes(call: Call) -> Answer:
    """Return what the server knows of the request. The real one echoes the bearer token as well; this one does not."""
    shown = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in call.headers.items()}
    shown.pop("HTTP_AUTHORIZATION", None)
    shown["SSL_CLIENT_S_DN"] = f"{call.user.name}/CN=nickname:{call.user.nickname}"
    return Answer(True, "", {"environment": shown})
