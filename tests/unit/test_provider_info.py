"""The provider's index: valid for Airflow, complete, and naming only what exists."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_panda.get_provider_info import get_provider_info

INFO = get_provider_info()


def test_it_satisfies_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)


def _named_classes() -> list[str]:
    return [
        *(connection["hook-class-name"] for connection in INFO["connection-types"]),
        *(decorator["class-name"] for decorator in INFO["task-decorators"]),
        *INFO["extra-links"],
        *INFO["cli"],
    ]


@pytest.mark.parametrize("path", _named_classes())
def test_named_things_exist(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_panda_form_has_every_field_that_the_hook_reads() -> None:
    from airflow_provider_panda.hooks.panda import EXTRAS

    (form,) = (c["conn-fields"] for c in INFO["connection-types"] if c["connection-type"] == "panda")
    assert set(form) == EXTRAS


def test_secret_fields_are_passwords_in_the_form() -> None:
    for connection in INFO["connection-types"]:
        for name, field in connection["conn-fields"].items():
            secret = any(word in name for word in ("secret", "password", "refresh_token"))
            assert (field["schema"].get("format") == "password") is secret, name


def test_installed_provider_is_discovered_with_its_decorator_and_forms() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "airflow-provider-panda" in manager.providers
    assert {"panda", "stomp"} <= set(manager.hooks)


def test_importing_what_a_dag_file_uses_loads_no_client_and_makes_no_connection() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a network call at import')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "import airflow_provider_panda.decorators\n"
        "heavy = {'pandaclient', 'stomp', 'idds', 'numpy', 'pandas', 'cloudpickle'}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
