"""``airflow panda check CONN``: try a connection step by step, and say what is wrong. Changes nothing."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TypeVar

from airflow_provider_panda import configuration
from airflow_provider_panda.commands import read_connections_from_database
from airflow_provider_panda.exceptions import ConfigurationError, PandaProviderError
from airflow_provider_panda.grid.names import processing_type, secret_name
from airflow_provider_panda.hooks.delivery import secret_delivery
from airflow_provider_panda.hooks.panda import PandaConnection, PandaHook
from airflow_provider_panda.hooks.stomp import StompHook

T = TypeVar("T")


def check(args: Namespace) -> None:
    """Print a line a step; exit with 1 if a step failed."""
    read_connections_from_database()
    sys.exit(0 if _Check(args.conn_id).run() else 1)


class _Check:
    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self.good = True

    def run(self) -> bool:
        """Take the steps in order; a step that others build on ends the check when it fails."""
        connection = self._step("connection", lambda: PandaHook(self.conn_id).get_conn(), lambda c: c.endpoint.url)
        if connection is None:
            return False
        hook = PandaHook(self.conn_id)
        if self._step("PanDA", lambda: hook.grid().check(), lambda text: text) is None:
            return False
        instance = self._step(
            "instance",
            lambda: configuration.instance(connection.instance_secret, conn_id=self.conn_id),
            lambda name: name,
        )
        if instance is not None:
            listed = self._step(
                "credentials",
                lambda: hook.grid().statuses(processing_type(instance)),
                lambda tasks: f"{len(tasks)} task(s) of this instance are listed",
            )
            if listed is not None and connection.signing == "secret":
                self._step("user secret", lambda: self._stored(hook, connection, instance), lambda text: text)
        if connection.broker_conn_id:
            self._step("broker", lambda: self._broker(connection.broker_conn_id or ""), lambda text: text)
        else:
            print("  --   broker: the connection names none (broker_conn_id); results come from PanDA's record, later")
        return self.good

    def _step(self, name: str, act: Callable[[], T], tell: Callable[[T], str]) -> T | None:
        try:
            result = act()
        except PandaProviderError as error:
            self.good = False
            print(f" FAIL  {name}: {error}")
            return None
        print(f"  ok   {name}: {tell(result)}")
        return result

    def _stored(self, hook: PandaHook, connection: PandaConnection, instance: str) -> str:
        name = secret_name(instance)
        stored = hook.grid().secrets().get(name)
        remedy = f"Run `airflow panda setup {self.conn_id}`"
        if stored is None:
            raise ConfigurationError(f"user secret {name}", "PanDA has none, so jobs cannot sign their results", remedy)
        if json.loads(stored) != json.loads(secret_delivery(connection)):
            raise ConfigurationError(f"user secret {name}", "it differs from the connections here", remedy)
        return f"{name} is stored and current"

    def _broker(self, conn_id: str) -> str:
        good, text = StompHook(conn_id).test_connection()
        if not good:
            raise ConfigurationError(f"connection {conn_id}", text, "Mend the connection or ask the broker's operators")
        return text
