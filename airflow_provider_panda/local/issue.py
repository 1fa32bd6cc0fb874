"""``python -m airflow_provider_panda.local.issue``: tokens of an embedded grid, for whoever owns its data directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_panda.local.auth import keys_of, write_private
from airflow_provider_panda.local.issuer import (
    ID_LIFETIME,
    REFRESH_LIFETIME,
    Person,
    approval_file,
    id_token,
    refresh_token,
    user_of,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_panda.local.issue", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="data directory of the grid, which has run once")
    add("--out", type=Path, metavar="FILE", help="write the token there, readable by its owner (default: stdout)")
    add("--refresh", action="store_true", help="a refresh token rather than an id token")
    add("--lifetime", type=float, metavar="SECONDS", help="default: an hour, for a refresh token 30 days")
    add("--name", default="Grid User", help="whose token it is (default: %(default)s)")
    add("--vo", action="append", metavar="NAME", help="virtual organisation; repeatable (default: wlcg, panda_dev)")
    add("--group", action="append", metavar="GROUP", help="exactly these groups instead: vo, vo/role; repeatable")
    add("--approve", metavar="CODE", help="approve the device that shows this code; gives no token here")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    args = _parser().parse_args(arguments)
    if not (args.data / "keys.json").exists():
        print(f"issue: {args.data} is no data directory of a grid; start the grid once", file=sys.stderr)
        return 1
    try:
        if args.approve:
            write_private(approval_file(args.data, args.approve.upper()), "")
            return 0
        token = _token(args)
    except (LookupError, ValueError, OSError) as error:
        print(f"issue: {error}", file=sys.stderr)
        return 1
    if args.out is not None:
        write_private(args.out, token)
    else:
        print(token)
    return 0


def _token(args: argparse.Namespace) -> str:
    person = user_of(args.name, args.vo or ("wlcg", "panda_dev"))
    if args.group:
        person = Person(name=person.name, nickname=person.nickname, groups=tuple(args.group))
    make, usual = (refresh_token, REFRESH_LIFETIME) if args.refresh else (id_token, ID_LIFETIME)
    return make(keys_of(args.data), person, lifetime=usual if args.lifetime is None else args.lifetime)


if __name__ == "__main__":
    sys.exit(main())
