# make demo: the ttH optimisation on a grid on this machine.   make test: the whole suite.
VENV ?= .venv
export VENV
RUN := $(VENV)/bin

.PHONY: help setup packages idds demo grid stack test chaos unit bench check fuzz audit format clean

help:
	@echo "make demo    run the ttH optimisation on the embedded grid (DEMO_EXIT=1: end when it is done)"
	@echo "make test    run the whole test suite (starts its own services)"
	@echo "make chaos   kill and stall processes at random under load for MINUTES=20 (SEED=n: the same faults again)"
	@echo "make unit    run the unit tests only"
	@echo "make bench   measure: every program under benchmarks/, in under 20 minutes on a quiet machine"
	@echo "make check   ruff and mypy"
	@echo "make fuzz    fuzz what strangers may send, a minute for each target (FUZZ_SECONDS=60)"
	@echo "make audit   look the installed packages up among known vulnerabilities (needs pypi.org or api.osv.dev)"
	@echo "make grid    run an embedded grid in the foreground"
	@echo "make stack   keep ActiveMQ, PostgreSQL, a real iDDS and an embedded grid up, and say how to reach them"

setup:
	@tools/setup

# The tests' broker (a real ActiveMQ), database and browser; jobs of iDDS unpack themselves.
packages:
	@tools/debian-packages activemq chromium chromium-driver postgresql unzip

# iDDS has a virtualenv of its own, .venv-idds beside $(VENV).
idds: setup
	@$(RUN)/python -m deploy.idds install

demo: setup
	@$(RUN)/python -m demo

grid: setup
	@$(RUN)/python -m airflow_provider_panda.local --data .demo/grid

stack: packages setup idds
	@$(RUN)/python -m tests.stack.stack

test: packages setup idds
	$(RUN)/python -m pytest

MINUTES ?= 20
chaos: packages setup idds
	$(RUN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: packages setup idds
	$(RUN)/python -m benchmarks

unit: setup
	$(RUN)/python -m pytest tests/unit

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

FUZZ_SECONDS ?= 60
fuzz: setup
	$(RUN)/uv pip install --quiet --python $(RUN)/python --editable ".[fuzz]"
	$(RUN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

audit: setup
	@$(RUN)/python tools/audit $(VENV)

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

clean:
	rm -rf $(VENV) $(dir $(VENV)).venv-idds .demo .cache .fuzz .mypy_cache .ruff_cache .pytest_cache
