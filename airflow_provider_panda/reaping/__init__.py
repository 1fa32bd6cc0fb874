"""Finds grid tasks of this Airflow instance that nobody waits for, and ends them."""
