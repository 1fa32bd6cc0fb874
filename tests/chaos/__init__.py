"""Fault injection: a real Airflow, a real broker and a grid under random kills and stalls, and what came home from it.

``python -m tests.chaos --minutes 20 --seed 7`` or ``make chaos MINUTES=20``.
"""
