# Two commands: `make demo` shows the main job, `make test` checks everything. Both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEBIAN := $(VENV)/debian
SOURCES := $(wildcard watchdogd/native/*.c watchdogd/native/*.h)
C_FILES := $(wildcard watchdogd/native/*.[ch] tests/native/*.[ch] tests/simulator/*.[ch] tests/simulator/src/*.[ch])

.PHONY: setup packages test-packages demo test lint unit bench soak test-gpu clean

setup: $(STAMP) test-packages

# Debian packages, where root may install them: headers for systemd-python, a C compiler.
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! pkg-config --exists libsystemd 2>/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    gcc libc6-dev libsystemd-dev pkg-config procps >/dev/null; fi

# The real parts that the tests run against, where root may install them. Prometheus is unpacked into $(VENV), not
# installed: its package would start it as a service.
test-packages: $(STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  PATH="$$PATH:$(DEBIAN)/usr/bin"; \
	  command -v chromium >/dev/null && command -v promtool >/dev/null || apt-get update -qq; \
	  command -v chromium >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium fonts-dejavu-core >/dev/null || echo "no chromium: its tests will be skipped"; \
	  command -v promtool >/dev/null || (mkdir -p $(DEBIAN) && cd $(DEBIAN) && apt-get download -qq prometheus && \
	    dpkg -x prometheus_*.deb . && rm prometheus_*.deb) || echo "no prometheus: its tests will be skipped"; fi

$(STAMP): pyproject.toml $(SOURCES) | packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable \
	  ".[dev$$(pkg-config --exists libsystemd 2>/dev/null && echo ,systemd)]"
	@touch $@

# `make demo` on the simulated driver; `make demo GPU=1` on the real one.
demo: $(STAMP)
	@$(BIN)/python -m tests.demo $(if $(GPU),--gpu)

test: lint unit

lint: $(STAMP)
	$(BIN)/ruff check watchdogd tests
	$(BIN)/ruff format --check watchdogd tests
	$(BIN)/mypy
	$(MAKE) --no-print-directory -s -C tests/simulator

unit: setup
	$(BIN)/python -m pytest -m "not gpu" $(PYTEST)

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(BENCH)

soak: $(STAMP)
	$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),15)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu -s tests/gpu $(PYTEST)

clean:
	rm -rf build $(VENV) *.egg-info watchdogd/*.so
