"""Airflow provider for PanDA: decorated functions become grid tasks, and their results come back as messages."""

__version__ = "0.1.0"
