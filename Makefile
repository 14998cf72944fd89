# Two commands: `make demo` shows the whole road, `make test` proves it. Everything stays in this folder and in .venv.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
# The exact PyTorch that the tests were written with. It is needed by `make test` only.
TORCH := torch==2.13.0
# llama.cpp is built with its RPC backend (more than one machine). Your own CMAKE_ARGS come after it, so they win.
LLAMA := $(shell sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' pyproject.toml)
# Some compilers break its use of AMX, which is then left out.
AMX := $(if $(PYTHON),$(shell $(PYTHON) -I interns1_local/engine/amx.py --flags "$${CXX:-c++}"))
override CMAKE_ARGS := -DGGML_RPC=ON $(AMX) $(CMAKE_ARGS)
export CMAKE_ARGS
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint clean check-machine

demo: $(VENV)/.installed
	@$(BIN)/interns1 demo

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	@$(PIP) install --quiet "ruff>=0.9" "mypy>=1.14"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check-machine:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or later is needed and none was found. Install it, or name one: make PYTHON=/path/to/python3.12"; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@for tool in "$${CC:-cc}" "$${CXX:-c++}"; do command -v $${tool%% *} >/dev/null 2>&1 || { echo "The compiler $$tool is missing; llama.cpp is built from source. On Debian or Ubuntu: apt install build-essential; on macOS: xcode-select --install"; exit 1; }; done

$(VENV)/.installed: pyproject.toml setup.py Makefile $(wildcard quant/kernels/native/*) | check-machine
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time llama.cpp is built, which takes about 5 minutes on 2 cores."
	@$(PIP) install --quiet --editable .
	@# pip keeps built wheels without regard to CMAKE_ARGS: one of an earlier build may have been taken.
	@{ $(if $(findstring GGML_RPC=OFF,$(CMAKE_ARGS)),true,$(BIN)/python -m interns1_local.engine.rpc --check) && \
		$(if $(AMX),$(BIN)/python -m interns1_local.engine.amx --check,true); } || { echo "Building llama.cpp once more, with $(CMAKE_ARGS)."; \
		$(PIP) cache remove "$(subst -,_,$(word 1,$(subst ==, ,$(LLAMA))))-$(word 2,$(subst ==, ,$(LLAMA)))-*" >/dev/null 2>&1 || true; \
		$(PIP) install --quiet --force-reinstall --no-deps "$(LLAMA)"; }
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	@$(PIP) install --quiet "$(TORCH)"
	@$(PIP) install --quiet --editable ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) .demo build
