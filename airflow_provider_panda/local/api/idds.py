"""Calls of PanDA's module ``idds``: commands for iDDS, relayed."""

from __future__ import annotations

from airflow_provider_panda.local.api.registry import Answer, Call, Module

_module = Module("idds")
CALLS = _module.calls


@_module.call("POST")
async def relay_idds_command(
    call: Call,
    command_name: str,
    args: str | None = None,
    kwargs: str | None = None,
    manager: bool | None = None,
    json_outputs: bool | None = None,
) -> Answer:
    """Pass a command to the configured iDDS."""
    success, value = await call.grid.relay.command(
        call.user, command_name, args=args, kwargs=kwargs, manager=bool(manager), json_outputs=bool(json_outputs)
    )
    return Answer(True, "", value) if success else Answer(False, str(value))


@_module.call("POST")
async def execute_idds_workflow_command(
    call: Call, command_name: str, kwargs: str | None = None, json_outputs: bool | None = None
) -> Answer:
    """Pass a workflow command of a user to the configured iDDS."""
    success, value = await call.grid.relay.workflow_command(
        call.user, command_name, kwargs=kwargs, json_outputs=bool(json_outputs)
    )
    return Answer(True, "", value) if success else Answer(False, str(value))
