"""Commands for iDDS that reach PanDA (facts/panda.md section 4)."""

from __future__ import annotations

from typing import Any, Protocol

from airflow_provider_panda.local.auth import Identity

NOT_CONFIGURED = "failed to execute command with No section: 'rest'"
"""What the real server answers when it knows no iDDS."""


class Relay(Protocol):
    """Whatever passes commands to an iDDS; answers are ``(success, value or message)``, as the old API's lists."""

    async def command(
        self,
        identity: Identity,
        name: str,
        *,
        args: str | None,
        kwargs: str | None,
        manager: bool,
        json_outputs: bool,
    ) -> tuple[bool, Any]:
        """Run a command of the iDDS client (``args`` and ``kwargs`` are JSON texts)."""

    async def workflow_command(
        self, identity: Identity, name: str, *, kwargs: str | None, json_outputs: bool
    ) -> tuple[bool, Any]:
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
    ) -> tuple[bool, Any]:
        """Say that no iDDS is configured."""
        return False, NOT_CONFIGURED

    async def workflow_command(
        self, identity: Identity, name: str, *, kwargs: str | None, json_outputs: bool
    ) -> tuple[bool, Any]:
        """Say that no iDDS is configured."""
        return False, NOT_CONFIGURED
