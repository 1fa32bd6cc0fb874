"""Lies next to the DAG file below, and nowhere else."""


def times_two(x):
    return x * 2
