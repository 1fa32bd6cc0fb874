"""``make demo``: the ttH optimisation on an embedded grid and a private Airflow, all on this machine."""
