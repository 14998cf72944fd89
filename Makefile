# Two commands: `make demo` shows the whole road, `make test` proves it. Everything stays in this folder and in .venv.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
# The exact PyTorch that the tests were written with. It is needed by `make test` only.
TORCH := torch==2.13.0

.PHONY: demo test lint clean check-machine

demo: $(VENV)/.installed
	@$(BIN)/interns1 demo

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "ruff>=0.9" "mypy>=1.14"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check-machine:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or later is needed and none was found. Install it, or name one: make PYTHON=/path/to/python3.12"; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@for tool in "$${CC:-cc}" "$${CXX:-c++}"; do command -v $${tool%% *} >/dev/null 2>&1 || { echo "The compiler $$tool is missing; llama.cpp is built from source. On Debian or Ubuntu: apt install build-essential; on macOS: xcode-select --install"; exit 1; }; done

$(VENV)/.installed: pyproject.toml setup.py $(wildcard quant/kernels/native/*) | check-machine
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time llama.cpp is built, which takes about 5 minutes on 2 cores."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) .demo build
