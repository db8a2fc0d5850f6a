# `make demo` shows the main job, `make test` checks everything, `make install` puts it on this machine, `make bundle` makes
# what another machine installs with no network and no compiler. All set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEBIAN := $(VENV)/debian
BUNDLER := build/bundler
SOURCES := $(wildcard watchdogd/native/*.[ch] watchdogd/native/shim/*)
C_FILES := $(wildcard watchdogd/native/*.[ch] watchdogd/native/shim/*.[ch] tests/native/*.[ch] tests/simulator/*.[ch] tests/simulator/src/*.[ch])

# How many test files run at a time: four for two cores, because most tests wait for most of their time, for a deadline to
# pass or a container to boot. With three it took 350 s there, and the cores were idle for a third of that.
JOBS ?= 4

# What `make install` needs of the world; see deploy/install.sh. PYTHON is also what the installed environment is built on.
PREFIX ?= /usr/local
HERE_TARGET = $$(uname -m)-py$$($(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])')
TARGET ?= $(HERE_TARGET)

.PHONY: setup packages test-packages demo install uninstall bundle test lint unit bench soak field hours test-gpu clean

setup: $(STAMP) test-packages

# Debian packages, where root may install them: headers for systemd-python, a C compiler.
packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! pkg-config --exists libsystemd 2>/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	    gcc libc6-dev libsystemd-dev pkg-config procps >/dev/null; fi

# The real parts that the tests run against, where root may install them: systemd-nspawn, a Python that its container
# shares, a compiler for the board's bundle, CMake and a C++ compiler, Chromium, Prometheus. That one is unpacked into $(VENV), not installed: its
# package would start it as a service.
test-packages: $(STAMP)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  PATH="$$PATH:$(DEBIAN)/usr/bin"; \
	  has() { for name; do command -v $$name >/dev/null || return 1; done; }; \
	  CROSS=$$([ "$$(uname -m)" != x86_64 ] || echo aarch64-linux-gnu-gcc); \
	  has chromium cmake g++ promtool systemd-nspawn $$CROSS || apt-get update -qq; \
	  has cmake g++ || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cmake g++ \
	    >/dev/null || echo "no cmake: its tests will be skipped"; \
	  has systemd-nspawn $$CROSS || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    dbus python3 systemd systemd-container $$([ -z "$$CROSS" ] || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross) \
	    >/dev/null || echo "no systemd-nspawn: its tests will be skipped"; \
	  command -v chromium >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium fonts-dejavu-core >/dev/null || echo "no chromium: its tests will be skipped"; \
	  command -v promtool >/dev/null || (mkdir -p $(DEBIAN) && cd $(DEBIAN) && apt-get download -qq prometheus && \
	    dpkg -x prometheus_*.deb . && rm prometheus_*.deb) || echo "no prometheus: its tests will be skipped"; fi

# Compat: a line in a .pth file. The default is an import hook that costs every interpreter here 15 ms, which nothing that
# is installed on a vehicle pays.
$(STAMP): pyproject.toml setup.py $(SOURCES) | packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --config-settings editable_mode=compat \
	  --editable ".[dev$$(pkg-config --exists libsystemd 2>/dev/null && echo ,systemd)]"
	@touch $@

# `make demo` on the simulated driver; `make demo GPU=1` on the real one; `make demo STORY=NAME`: docs/STORIES.md
demo: $(STAMP)
	@$(BIN)/python -m tests.demo $(if $(GPU),--gpu) $(if $(STORY),--story "$(STORY)")

# What makes a bundle, and none of what develops and tests.
$(BUNDLER)/.installed: | packages
	@rm -rf $(BUNDLER)
	@$(PYTHON) -m venv $(BUNDLER)
	@$(BUNDLER)/bin/python -m pip install --quiet --disable-pip-version-check packaging 'tomli; python_version < "3.11"'
	@touch $@

# DESTDIR, PREFIX and FORCE=1 as in deploy/install.sh.
install: $(BUNDLER)/.installed
	@echo "for $$(command -v $(PYTHON)), $$($(PYTHON) --version)"
	@rm -rf build/install
	@$(BUNDLER)/bin/python deploy/bundle.py "$(HERE_TARGET)" --output build/install >/dev/null
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" FORCE="$(FORCE)" PYTHON="$(PYTHON)" build/install/gpu-watchdogd-*-$(HERE_TARGET)/install.sh

uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" deploy/install.sh --uninstall

# `make bundle TARGET=aarch64-py310`
bundle: $(BUNDLER)/.installed
	@$(BUNDLER)/bin/python deploy/bundle.py "$(TARGET)"

test: lint unit

lint: $(STAMP)
	$(BIN)/ruff check watchdogd tests deploy
	$(BIN)/ruff format --check watchdogd tests deploy
	$(BIN)/mypy
	$(BIN)/mypy deploy/bundle.py
	$(MAKE) --no-print-directory -s -C tests/simulator

unit: setup
	$(BIN)/python -m pytest -m "not gpu" -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST)

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(BENCH)

# docs/SOAK.md: `make soak MINUTES=15 SEED=1`; `make soak PAIRS=1 SECONDS=10 CONFIG=/etc/gpu-watchdogd/watchdogd.toml`
soak: $(STAMP)
ifdef PAIRS
	@$(BIN)/python -m tests.bench.soak.pairs $(if $(SECONDS),--seconds $(SECONDS)) $(if $(CONFIG),--config "$(CONFIG)")
else
	@$(BIN)/python -m tests.bench.soak --minutes $(or $(MINUTES),15) $(if $(SEED),--seed $(SEED))
endif

# docs/FIELD.md
field: $(STAMP)
	@$(BIN)/python -m tests.histories.field_table

hours: $(STAMP)
	@$(BIN)/python -m tests.bench.hours $(HOURS)

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu -s tests/gpu $(PYTEST)

clean:
	rm -rf build dist $(VENV) *.egg-info watchdogd/*.so watchdogd/native/*.so
