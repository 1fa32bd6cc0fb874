"""The example DAGs' modules are imported as Airflow does it: with the folder of DAG files on the path."""

from __future__ import annotations

import sys
from pathlib import Path

DAGS = Path(__file__).parents[3] / "dags"
if str(DAGS) not in sys.path:
    sys.path.append(str(DAGS))
