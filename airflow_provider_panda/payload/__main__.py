"""``python -m airflow_provider_panda.payload run ARCHIVE --job K``: one job of an archive on this machine.

No service is needed: the archive's own runner runs in a scratch directory with a key of its own, as a grid job would.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from airflow_provider_panda.exceptions import PandaProviderError

from .local_run import LocalRun, run_archive


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: that of the job, or 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_panda.payload", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run one job of an archive")
    run.add_argument("archive", type=Path, help="sources.<sha256>.tar.gz, or an unpacked archive's folder")
    run.add_argument("--job", default="0", help="index or key of the job (0, j0)")
    run.add_argument("--attempt", type=int, default=1, help="attempt that it is told")
    run.add_argument("--python", default=sys.executable, help="interpreter to run it with")
    run.add_argument("--timeout", type=float, default=None, help="seconds after which it is killed")
    run.add_argument("--json", action="store_true", help="print the signed report as JSON")
    options = parser.parse_args(argv)
    try:
        done = run_archive(
            options.archive,
            job=options.job,
            attempt=options.attempt,
            python=options.python,
            timeout=options.timeout,
            capture=options.json,
        )
    except (PandaProviderError, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.json:
        sys.stderr.write(done.stdout + done.stderr)
        print(json.dumps(done.report))
    else:
        print(_summary(done))
    return done.exit_code


def _summary(done: LocalRun) -> str:
    result = done.result
    if result is None:
        return f"no result: exit code {done.exit_code}: {done.report.get('exitMsg', 'the job left no report')}"
    lines = [
        f"job {result.job} attempt {result.attempt}: {result.status}, exit code {done.exit_code}",
        f"python {result.python} on {result.host}, {(result.end or 0) - (result.start or 0):.3f} s in the function",
    ]
    if result.exception is not None:
        lines.append(result.exception.traceback.rstrip() or f"{result.exception.type}: {result.exception.message}")
    elif done.problem is not None:
        lines.append(f"value: {done.problem}")
    else:
        lines.append(f"value: {done.value!r}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
