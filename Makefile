# make demo: the ttH optimisation on a grid on this machine.   make test: the whole suite.
VENV ?= .venv
export VENV
RUN := $(VENV)/bin

.PHONY: help setup packages demo grid test unit check format clean

help:
	@echo "make demo    run the ttH optimisation on the embedded grid (DEMO_EXIT=1: end when it is done)"
	@echo "make test    run the whole test suite (starts its own services)"
	@echo "make unit    run the unit tests only"
	@echo "make check   ruff and mypy"
	@echo "make grid    run an embedded grid in the foreground"

setup:
	@tools/setup

# The tests' broker (a real ActiveMQ) and browser.
packages:
	@tools/debian-packages activemq chromium chromium-driver

demo: setup
	@$(RUN)/python -m demo

grid: setup
	@$(RUN)/python -m airflow_provider_panda.local --data .demo/grid

test: packages setup
	$(RUN)/python -m pytest

unit: setup
	$(RUN)/python -m pytest tests/unit

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache
