# Two commands: `make demo` shows the main job, `make test` checks everything. Both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(wildcard watchdogd/native/*.c watchdogd/native/*.h)
C_FILES := $(wildcard watchdogd/native/*.[ch] tests/native/*.[ch] tests/simulator/*.[ch] tests/simulator/src/*.[ch])

.PHONY: setup packages demo test lint unit bench soak test-gpu clean

setup: $(STAMP)

# Debian packages, where root may install them: headers for systemd-python, a C compiler.
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! pkg-config --exists libsystemd 2>/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    gcc libc6-dev libsystemd-dev pkg-config procps >/dev/null; fi

$(STAMP): pyproject.toml $(SOURCES) | packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --editable \
	  ".[dev$$(pkg-config --exists libsystemd 2>/dev/null && echo ,systemd)]"
	@touch $@

# `make demo` on the simulated driver; `make demo GPU=1` on the real one.
demo: setup
	@$(BIN)/python -m tests.demo $(if $(GPU),--gpu)

test: lint unit

lint: setup
	$(BIN)/ruff check watchdogd tests
	$(BIN)/ruff format --check watchdogd tests
	$(BIN)/mypy
	$(MAKE) --no-print-directory -s -C tests/simulator

unit: setup
	$(BIN)/python -m pytest -m "not gpu" $(PYTEST)

bench: setup
	$(BIN)/python -m tests.bench $(BENCH)

soak: setup
	$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),15)

test-gpu: setup
	$(BIN)/python -m pytest -m gpu -s tests/gpu $(PYTEST)

clean:
	rm -rf build $(VENV) *.egg-info watchdogd/*.so
