"""The index of the package for Airflow (entry point ``apache_airflow_provider``)."""

from __future__ import annotations

from typing import Any

from airflow_provider_panda import __version__


def get_provider_info() -> dict[str, Any]:
    """Return what this provider adds to Airflow, as described by ``airflow/provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-panda",
        "name": "PanDA",
        "description": "Runs decorated Python functions as PanDA tasks on the grid and waits for their results on "
        "broker messages.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": "PanDA", "external-doc-url": "https://panda-wms.readthedocs.io/", "tags": ["service"]},
            {"integration-name": "STOMP", "external-doc-url": "https://stomp.github.io/", "tags": ["protocol"]},
        ],
        "operators": [
            {"integration-name": "PanDA", "python-modules": ["airflow_provider_panda.operators.function"]},
        ],
        "hooks": [
            {"integration-name": "PanDA", "python-modules": ["airflow_provider_panda.hooks.panda"]},
            {"integration-name": "STOMP", "python-modules": ["airflow_provider_panda.hooks.stomp"]},
        ],
        "triggers": [
            {"integration-name": "PanDA", "python-modules": ["airflow_provider_panda.triggers.function"]},
        ],
        "connection-types": [_PANDA_CONNECTION, _STOMP_CONNECTION],
        "task-decorators": [{"name": "panda", "class-name": "airflow_provider_panda.decorators.panda_task"}],
        "extra-links": ["airflow_provider_panda.links.PandaTaskLink"],
        "cli": ["airflow_provider_panda.cli.get_panda_commands"],
        "config": _CONFIGURATION,
    }


_CONFIGURATION: dict[str, Any] = {
    "panda": {
        "description": "How this Airflow talks to PanDA.",
        "options": {
            "instance": {
                "description": "Four lower-case letters or digits that tell this Airflow's grid tasks from another's; "
                "the same on every component. By default derived from the connection's instance secret.",
                "version_added": "0.1.0",
                "type": "string",
                "example": "bnl1",
                "default": "",
            },
            "poll_interval": {
                "description": "Seconds between two status requests for all waiting tasks of a connection. Results "
                "come by messages; this is what finds a lost one.",
                "version_added": "0.1.0",
                "type": "float",
                "example": None,
                "default": "60",
            },
        },
    }
}


def _text(label: str, description: str, *, secret: bool = False, default: str | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["string", "null"]}
    if secret:
        schema["format"] = "password"
    if default is not None:
        schema["default"] = default
    return {"label": label, "schema": schema, "description": description}


def _choice(label: str, description: str, values: list[str], default: str) -> dict[str, Any]:
    return {
        "label": label,
        "schema": {"type": ["string", "null"], "enum": values, "default": default},
        "description": description,
    }


_PANDA_CONNECTION: dict[str, Any] = {
    "connection-type": "panda",
    "hook-class-name": "airflow_provider_panda.hooks.panda.PandaHook",
    "hook-name": "PanDA",
    "ui-field-behaviour": {"hidden-fields": [], "relabeling": {}, "placeholders": {}},
    "conn-fields": {},
}

_STOMP_CONNECTION: dict[str, Any] = {
    "connection-type": "stomp",
    "hook-class-name": "airflow_provider_panda.hooks.stomp.StompHook",
    "hook-name": "STOMP broker",
    "ui-field-behaviour": {"hidden-fields": [], "relabeling": {}, "placeholders": {}},
    "conn-fields": {},
}
