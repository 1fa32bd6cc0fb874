"""Every benchmark can be run as a script, beside one that is called airflow.py."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = [
    file for file in sorted(BENCHMARKS.glob("*.py")) if "sys.path.insert(0, str(Path(__file__)" in file.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_its_own_folder_is_not_on_the_path(script: Path) -> None:
    """Python puts a script's folder first, where airflow.py would be imported in place of Airflow."""
    before, _, _ = script.read_text().partition("sys.path.insert")
    assert "sys.path.pop(0)" in before
