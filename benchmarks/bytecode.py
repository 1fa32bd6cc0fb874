"""Compiled modules for the processes that a benchmark starts, as an installed package has them.

Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each process would compile what it imports, and a benchmark
would measure the compiler. They are kept in a folder of the checkout, so that the installation stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / ".cache" / "pycache"
"""Ignored by git; any turn before the first measured one fills it."""

KEPT: Final = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(FOLDER)}
"""Environment variables."""
