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
            {
                "integration-name": "PanDA",
                "python-modules": [
                    "airflow_provider_panda.operators.function",
                    "airflow_provider_panda.operators.reap",
                    "airflow_provider_panda.operators.task",
                    "airflow_provider_panda.operators.workflow",
                ],
            },
        ],
        "sensors": [
            {
                "integration-name": "PanDA",
                "python-modules": ["airflow_provider_panda.sensors.task", "airflow_provider_panda.sensors.request"],
            },
        ],
        "hooks": [
            {"integration-name": "PanDA", "python-modules": ["airflow_provider_panda.hooks.panda"]},
            {"integration-name": "STOMP", "python-modules": ["airflow_provider_panda.hooks.stomp"]},
        ],
        "triggers": [
            {
                "integration-name": "PanDA",
                "python-modules": [
                    "airflow_provider_panda.triggers.function",
                    "airflow_provider_panda.triggers.task",
                    "airflow_provider_panda.triggers.request",
                ],
            },
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
            "on_retry": {
                "description": "What a further try does with the grid task of an earlier one whose worker was lost "
                "between submission and deferral: attach = wait for that task, if it is alive or done and this try "
                "would submit the very same; resubmit = kill it and submit anew. A task that was waited for is killed "
                "in any case.",
                "version_added": "0.1.0",
                "type": "string",
                "example": "resubmit",
                "default": "attach",
            },
            "poll_interval": {
                "description": "Seconds between two status requests for all waiting tasks of a connection. Results "
                "come by messages; this is what finds a lost one.",
                "version_added": "0.1.0",
                "type": "float",
                "example": None,
                "default": "60",
            },
            "end_in_triggerer": {
                "description": "Whether the triggerer ends a task whose value is plain JSON, if nothing is left for a "
                "worker to do: no callback, outlet, listener, mapped consumer or hook asks for one. Without it every "
                "task is resumed on a worker.",
                "version_added": "0.1.0",
                "type": "boolean",
                "example": None,
                "default": "True",
            },
            "settle_time": {
                "description": "Seconds after its submission before which a task is not resumed. Airflow's scheduler "
                "can take the end of the deferring worker for the end of a task that was resumed within its loop, and "
                "fail it; no grid is that fast, but an embedded one is.",
                "version_added": "0.1.0",
                "type": "float",
                "example": None,
                "default": "5",
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
    "ui-field-behaviour": {
        "hidden-fields": ["login", "schema"],
        "relabeling": {"host": "Server URL", "password": "Token"},
        "placeholders": {
            "host": "https://pandaserver-doma.cern.ch:443",
            "port": "443",
            "password": "OIDC id token, for auth = token",
        },
    },
    "conn-fields": {
        "auth": _choice(
            "Authentication",
            "token: the field Token; token_file: a file, read again when it changes; refresh: a refresh token, by "
            "which id tokens are renewed; x509: a proxy file; none: no credentials. The embedded grid wants a token.",
            ["token", "token_file", "refresh", "x509", "none"],
            "token",
        ),
        "vo": _text("VO", "Virtual organisation, with a role as vo.role; PanDA takes no token without it."),
        "token_file": _text(
            "Token file",
            "Path of an OIDC id token, or of panda-client's .token, which is renewed by its refresh token; for auth = "
            "token_file. For auth = refresh: a file with a refresh token.",
        ),
        "refresh_token": _text(
            "Refresh token", "OIDC refresh token, for auth = refresh; id tokens are obtained with it.", secret=True
        ),
        "auth_config_url": _text(
            "Issuer page",
            "Page that names the OIDC issuer; empty: the server's /auth/<vo>_auth_config.json, as for panda-client.",
        ),
        "proxy_file": _text("Proxy file", "Path of a PEM file with certificate and key, for auth = x509."),
        "cache_url": _text("Cache URL", "Base URL of the cache server; empty: the server itself."),
        "queue": _text("Queue", "PanDA queue for tasks that name none; empty: PanDA chooses."),
        "cloud": _text("Cloud", "PanDA cloud for tasks that name none."),
        "working_group": _text("Working group", "PanDA working group for tasks that name none."),
        "transform_url": _text(
            "Transform URL",
            "Program that runs a job's shell line; pilots accept few URL bases.",
            default="https://storage.googleapis.com/drp-us-central1-containers/bash-c-enc",
        ),
        "service": _choice(
            "Service", "panda: tasks go to PanDA directly; idds: through iDDS.", ["panda", "idds"], "panda"
        ),
        "idds_host": _text("iDDS host", "Base URL of iDDS, for service = idds; empty: the one that PanDA knows."),
        "broker_conn_id": _text(
            "Broker connection", "Id of the stomp connection that results come by; empty: PanDA's own record only."
        ),
        "signing": _choice(
            "Signing key",
            "How it reaches a job: secret = PanDA user secret; archive = inside the task's archive (weaker; the only "
            "way through iDDS). Empty: secret for panda, archive for idds.",
            ["", "secret", "archive"],
            "",
        ),
        "instance_secret": _text(
            "Instance secret", "Made by `airflow panda setup`; results are verified with it.", secret=True
        ),
        "monitor_url": _text("Monitor URL", "Base URL of the PanDA monitor, for links from the task."),
        "result_store": _text("Result store", "Where results go that are too large for a message."),
        "verify_host": {
            "label": "Verify the server",
            "schema": {"type": ["boolean", "null"], "default": True},
            "description": "Whether the server's TLS certificate is verified.",
        },
        "ca_path": _text("CA certificates", "File or directory of CA certificates; empty: the system's."),
        "timeout": {
            "label": "Timeout",
            "schema": {"type": ["number", "null"], "default": 30, "exclusiveMinimum": 0, "maximum": 600},
            "description": "Deadline of one call, in seconds.",
        },
    },
}

_STOMP_CONNECTION: dict[str, Any] = {
    "connection-type": "stomp",
    "hook-class-name": "airflow_provider_panda.hooks.stomp.StompHook",
    "hook-name": "STOMP broker",
    "ui-field-behaviour": {
        "hidden-fields": ["schema", "extra"],
        "relabeling": {
            "host": "Broker addresses",
            "port": "Default port",
            "login": "Login (may subscribe)",
            "password": "Passcode",
        },
        "placeholders": {
            "host": "broker1.example.org:61613,broker2.example.org:61613",
            "port": "61613",
        },
    },
    "conn-fields": {
        "tls": {"label": "TLS", "schema": {"type": ["boolean", "null"], "default": False}},
        "ca_file": {
            "label": "CA file",
            "schema": {"type": ["string", "null"]},
            "description": "PEM file of CA certificates; empty: the system's",
        },
        "cert_file": {
            "label": "Client certificate",
            "schema": {"type": ["string", "null"]},
            "description": "PEM file, if the broker asks for one",
        },
        "key_file": {
            "label": "Client key",
            "schema": {"type": ["string", "null"]},
            "description": "PEM file; empty: the key is in the certificate's file",
        },
        "result_destination": {
            "label": "Result destination",
            "schema": {"type": ["string", "null"], "default": "/topic/airflow.panda.results"},
            "description": "Topic to which workers publish results; through iDDS the one of its asyncresult channel",
        },
        "status_destination": {
            "label": "Status destination",
            "schema": {"type": ["string", "null"]},
            "description": "Topic of PanDA's status messages, such as /topic/panda_idds; empty: not used",
        },
        "heartbeat": {
            "label": "Heart-beat (seconds)",
            "schema": {"type": ["number", "null"], "default": 10, "minimum": 0.5, "maximum": 300},
            "description": "A broker that is silent for two of them is connected to again",
        },
        "publisher_login": {
            "label": "Publish-only login",
            "schema": {"type": ["string", "null"]},
            "description": "User for worker nodes, which should have no right to subscribe; empty: the login above",
        },
        "publisher_password": {
            "label": "Publish-only passcode",
            "schema": {"type": ["string", "null"], "format": "password"},
        },
    },
}
