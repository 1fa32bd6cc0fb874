"""``python -m deploy.idds COMMAND``: install, configure and run an iDDS.

configure, schema, rest and agents are configured by ``IDDS_DEPLOY_*`` variables (deploy/idds/configuration.py); no
secret is on a command line.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from deploy.idds.configuration import from_environment


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.idds", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", help="make the virtualenv (needs uv)")
    install.add_argument("venv", type=Path, nargs="?", help="where (default: $IDDS_VENV, or beside this virtualenv)")
    commands.add_parser("configure", help="write the configuration files")
    commands.add_parser("schema", help="create or upgrade the tables; may be repeated")
    rest = commands.add_parser("rest", help="run the REST service (gunicorn)")
    rest.add_argument("--bind", default="127.0.0.1:8080", help="HOST:PORT (default: %(default)s)")
    rest.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    rest.add_argument("--threads", type=int, default=8, help="threads of each (default: %(default)s)")
    agents = commands.add_parser("agents", help="run the agents")
    agents.add_argument("--plain", action="store_true", help="without fast mode: scans of 10 s, busy idle loops")
    args = parser.parse_args(arguments)

    if args.command == "install":
        from deploy.idds.install import default_venv
        from deploy.idds.install import install as make

        make(args.venv or default_venv())
        return 0
    try:
        configuration = from_environment(os.environ)
    except KeyError as error:
        print(f"deploy.idds: set the variable {error.args[0]}", file=sys.stderr)
        return 2
    if args.command == "configure":
        configuration.write()
        return 0
    os.environ.update(configuration.environment())
    if args.command == "schema":
        from idds.orm.base.utils import build_database

        build_database(echo=False)
    elif args.command == "rest":
        command = [
            sys.executable, "-m", "gunicorn", "--bind", args.bind, "--workers", str(args.workers),
            "--threads", str(args.threads), "--timeout", "120", "--graceful-timeout", "2",
            "deploy.idds.wsgi:application()",
        ]  # fmt: skip
        os.execv(sys.executable, command)  # noqa: S606 - a list of ours, no shell
    elif args.command == "agents":
        from deploy.idds.agents import run

        run(fast=not args.plain, ready=configuration.ready_file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
