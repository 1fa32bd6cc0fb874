"""Fuzz one target by coverage (needs the extra ``fuzz``: atheris), or all in turn.

    python -m tests.fuzz [--seconds N] [TARGET ...]

Each target runs in a process of its own; an input that breaks it is left in ``.fuzz/TARGET`` and printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz a target in this process; does not return."""
    import atheris

    # What is imported before would not be seen.
    with atheris.instrument_imports(include=["airflow_provider_panda", "json", "tarfile"]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-max_len=20000", "-rss_limit_mb=1500"]
    atheris.Setup([sys.argv[0], *options, "-timeout=20", "-print_final_stats=1", str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz what strangers may send")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="functions of tests/fuzz/targets.py (default: all)"
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path(".fuzz"), help="where inputs are kept (default: %(default)s)"
    )
    parser.add_argument("--here", action="store_true", help="fuzz one target in this process")
    args = parser.parse_args()
    if args.here:
        fuzz(args.targets[0], args.seconds, args.folder / args.targets[0])
    from tests.fuzz.targets import TARGETS

    failed = []
    for name in args.targets or TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", "--here", "--seconds", str(args.seconds), name]
        print(f"--- {name}", flush=True)
        if subprocess.run([*command, "--folder", str(args.folder)], check=False).returncode:
            failed.append(name)
    print(f"broken: {', '.join(failed)}" if failed else "nothing broke")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
