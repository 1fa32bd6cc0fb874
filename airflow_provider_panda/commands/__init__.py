"""What the commands of ``airflow panda`` do; their arguments are declared in :mod:`airflow_provider_panda.cli`."""
