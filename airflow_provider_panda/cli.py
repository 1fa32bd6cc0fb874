"""``airflow panda ...``: the commands that Airflow's own command line gets from this provider."""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand, lazy_load_command

_CONN = Arg(("conn_id",), help="connection of type panda", nargs="?", default="panda_default")
_NEW_SECRET = Arg(("--new-secret",), help="make a new instance secret even if there is one", action="store_true")
_OUTPUT = Arg(
    ("-o", "--output"), help="plain: a line a step; json: one object", choices=("plain", "json"), default="plain"
)

_REAP_ARGS = (
    Arg(("--dry-run",), help="tell what would be killed, and kill nothing", action="store_true"),
    Arg(
        ("--grace",),
        help="seconds after its submission and after the end of its task instance in which a grid task is spared "
        "(default 600)",
        type=float,
        default=600.0,
    ),
    Arg(
        ("--unknown",),
        help="kill as well what has a key of this instance but no task instance in this database (deleted, or of "
        "another Airflow with the same instance secret)",
        action="store_true",
    ),
)

_GRID_ARGS = (
    Arg(("--host",), help="address to listen on (default 127.0.0.1)", default="127.0.0.1"),
    Arg(("--http-port",), help="port of the PanDA server; 0 for a free one", type=int, default=25080),
    Arg(("--stomp-port",), help="port of the STOMP broker; 0 for a free one", type=int, default=61613),
    Arg(("--data",), help="folder of the grid's state", default=None),
    Arg(("--slots",), help="jobs that run at once", type=int, default=None),
    Arg(("--queue-delay",), help="seconds that a job waits in its queue", type=float, default=0.0),
    Arg(("--failure-rate",), help="share of attempts that fail for infrastructure reasons", type=float, default=0.0),
    Arg(("--idds-host",), help="URL of an iDDS that commands are relayed to", default=None),
)

_ANY_CONN = Arg(
    ("conn_id",), help="connection of type panda (default: all that somebody waits with)", nargs="?", default=None
)
_PROBE = Arg(
    ("--probe",),
    help="only whether this host's triggerer is alive: asks neither database nor services",
    action="store_true",
)


def get_panda_commands() -> list[GroupCommand]:
    """Return the command group ``panda``."""
    return [
        GroupCommand(
            name="panda",
            help="PanDA connections and the embedded grid",
            subcommands=(
                ActionCommand(
                    name="setup",
                    help="make the instance secret of a connection, store it with PanDA, and try the file cache",
                    func=lazy_load_command("airflow_provider_panda.commands.setup.setup"),
                    args=(_CONN, _NEW_SECRET, _OUTPUT),
                ),
                ActionCommand(
                    name="check",
                    help="try a connection step by step and say what is wrong; changes nothing",
                    func=lazy_load_command("airflow_provider_panda.commands.check.check"),
                    args=(_CONN, _OUTPUT),
                ),
                ActionCommand(
                    name="reap",
                    help="find and kill grid tasks of this Airflow that no task instance waits for; fit for cron",
                    func=lazy_load_command("airflow_provider_panda.commands.reap.reap"),
                    args=(_CONN, *_REAP_ARGS, _OUTPUT),
                ),
                ActionCommand(
                    name="grid",
                    help="run the embedded grid: a PanDA server, a STOMP broker and workers on this machine",
                    func=lazy_load_command("airflow_provider_panda.commands.grid.grid"),
                    args=_GRID_ARGS,
                ),
                ActionCommand(
                    name="status",
                    help="say how this host's triggerers fare that wait; exits with 1 if something is wrong",
                    func=lazy_load_command("airflow_provider_panda.commands.status.status"),
                    args=(_ANY_CONN, _PROBE, _OUTPUT),
                ),
            ),
        )
    ]
