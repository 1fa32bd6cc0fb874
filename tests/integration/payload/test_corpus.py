"""The corpus, packed by Python 3.11-3.13 and run by 3.9-3.13: each pair the right value, or the error that says why.

Archives of one function that differ in nothing but the Python that packed them are run by each Python once, those of
every packing Python in turn.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.payload import bootstrap, values
from airflow_provider_panda.payload.local_run import LocalRun, run_archive

from . import interpreters

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PACKERS = (11, 12, 13)
RUNNERS = (9, 10, 11, 12, 13)
Pair = tuple[str, int, int]
"""Function, minor versions of the Python that packed it and of the one that runs it."""
LIBRARIES = ("numpy", "pandas", "cloudpickle")


@dataclass(frozen=True)
class Expected:
    """What a case has to give: the encoded value, and the minor version it needs."""

    value: str
    needs: int


@pytest.fixture(scope="session")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """A virtual environment with numpy, pandas and cloudpickle for every Python of this machine."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed: no environments for the other Pythons")
    found = {}
    for minor in RUNNERS:
        base = interpreters.find_interpreter(minor)
        if base is None:
            continue
        folder = tmp_path_factory.mktemp("venvs") / f"py3{minor}"
        subprocess.run([uv, "venv", "-q", "-p", base, str(folder)], check=True, timeout=120)
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "pip", "install", "-q", "-p", python, *LIBRARIES], check=True, timeout=240)
        found[minor] = python
    return found


@pytest.fixture(scope="session")
def packed(pythons: dict[int, str], tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, dict[str, Any]]]:
    """Minor version -> folder of archives and index."""
    result = {}
    for minor in PACKERS:
        if minor in pythons:
            folder = tmp_path_factory.mktemp(f"packed3{minor}")
            _run([pythons[minor], str(HERE / "pack_corpus.py"), str(folder)], cwd=folder)
            result[minor] = (folder, json.loads((folder / "index.json").read_text()))
            for archive in folder.glob("*.tar.gz"):  # unpacked once for all the Pythons that run it
                with archive.open("rb") as file:
                    bootstrap.unpack(file, str(folder / archive.name.partition(".")[0]))
    return result


def content_of(folder: Path) -> str:
    """Return what is in an unpacked archive, apart from which Python packed it."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        text = path.read_bytes()
        if path == folder / "manifest.json":
            text = json.dumps({**json.loads(text), "python": None}).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(text).hexdigest()
    return json.dumps(found)


def stand_ins(packed: dict[int, tuple[Path, dict[str, Any]]], pairs: list[Pair]) -> dict[Pair, Pair]:
    """Return for each pair the one that is run for it: itself, or one of the same content."""
    alike: dict[tuple[str, int, str], list[Pair]] = {}
    contents = {
        (name, packer): content_of(folder / name) for packer, (folder, index) in packed.items() for name in index
    }
    for name, packer, runner in pairs:
        is_source = packed[packer][1][name].get("form") == "source"
        content = contents[name, packer] if is_source else str(packer)
        alike.setdefault((name, runner, content), []).append((name, packer, runner))
    return {pair: same[turn % len(same)] for turn, same in enumerate(alike.values()) for pair in same}


def _run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verdict(name: str, form: str, packer: int, runner: int, expected: Expected, done: LocalRun) -> str:
    """Return "ok", "refused: <reason>" where Python or cloudpickle forbids the pair, or "FAILED: ..."."""
    result = done.result
    if result is None:
        return f"FAILED: no result, exit code {done.exit_code}: {done.stderr[-300:]}"
    if done.exit_code < 0:
        return f"FAILED: killed by signal {-done.exit_code}"
    if form == "cloudpickle" and packer != runner:
        wanted, text = "WrongPython", f"cloudpickle bytes of Python 3.{packer}, and this node runs Python 3.{runner}"
    elif runner < expected.needs:
        wanted, text = "PythonTooOld", f"Python 3.{runner} is too old"
    else:
        if not result.returned or done.problem is not None:
            return f"FAILED: {result.status} {result.exception} {done.problem}"
        got = values.dumps(done.value)
        return "ok" if got == expected.value else f"FAILED: {got} is not {expected.value}"
    error = result.exception
    if error is not None and error.type == wanted and text in error.message and done.exit_code == 73:
        return f"refused: {wanted}"
    return f"FAILED: {wanted} was due, and it is {result.status} {error}"


@pytest.mark.timeout(600)
def test_every_pair_gives_the_value_or_the_reason(
    pythons: dict[int, str],
    packed: dict[int, tuple[Path, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not packed:
        pytest.skip("none of Python 3.11, 3.12 and 3.13 is installed")
    pairs = [(name, packer, runner) for packer in packed for name in packed[packer][1] for runner in pythons]

    def one(pair: tuple[str, int, int]) -> str:
        name, packer, runner = pair
        folder, index = packed[packer]
        entry = index[name]
        if "error" in entry:
            return f"FAILED: not packed: {entry['error']}"
        if not entry["same"]:
            return "FAILED: packed twice, two different archives"
        done = run_archive(folder / name, python=pythons[runner], timeout=120)
        expected = Expected(entry["value"], entry["needs"])
        return verdict(name, entry["form"], packer, runner, expected, done)

    chosen = stand_ins(packed, pairs)
    to_run = sorted(set(chosen.values()))
    with ThreadPoolExecutor(2) as pool:
        ran = dict(zip(to_run, pool.map(one, to_run), strict=True))
    verdicts = {pair: ran[chosen[pair]] for pair in pairs}
    missing = [f"3.{minor}" for minor in RUNNERS if minor not in pythons]
    with capsys.disabled():
        print("\n" + table(verdicts, packed, pythons, missing))
        print(f"{len(to_run)} were run; the others are of the same content")
    failed = {f"{name} 3.{a}->3.{b}": text for (name, a, b), text in verdicts.items() if text.startswith("FAILED")}
    assert not failed, json.dumps(failed, indent=1)
    assert len({name for name, _, _ in pairs}) >= 25
    assert {pair[1:] for pair in to_run} == {pair[1:] for pair in pairs}, "each Python runs what each packs"
    assert {pair[:2] for pair in to_run} == {pair[:2] for pair in pairs}, "no archive is run by none"


def test_only_what_has_no_source_goes_as_cloudpickle(packed: dict[int, tuple[Path, dict[str, Any]]]) -> None:
    for _, index in packed.values():
        assert {name for name, entry in index.items() if entry.get("form") == "cloudpickle"} == {
            "lambda",
            "takes_object",
        }


def table(
    verdicts: dict[tuple[str, int, int], str],
    packed: dict[int, tuple[Path, dict[str, Any]]],
    pythons: dict[int, str],
    missing: list[str],
) -> str:
    """Return the whole table: a row per function and packing Python, a column per running one."""
    marks = {"ok": "ok", "refused: WrongPython": "minor", "refused: PythonTooOld": "old"}
    names = sorted({name for name, _, _ in verdicts})
    head = " | ".join(f"3.{p}: " + " ".join(f"3.{r:<4}" for r in pythons) for p in packed)
    lines = [f"{'function':30} {head}"]
    for name in names:
        cells = []
        for packer in packed:
            row = [verdicts.get((name, packer, runner), "-") for runner in pythons]
            cells.append("      " + " ".join(f"{marks.get(text, 'FAILED' if text != '-' else '-'):6}" for text in row))
        lines.append(f"{name:30} {' | '.join(cells)}")
    counts: dict[str, int] = {}
    for text in verdicts.values():
        key = text if text in marks else "FAILED"
        counts[key] = counts.get(key, 0) + 1
    lines.append(f"{len(names)} functions, {len(verdicts)} pairs: {counts}")
    if missing:
        lines.append(f"not on this machine, skipped: {', '.join(missing)}")
    return "\n".join(lines)
