# make run   a real answer from an open-weight model, set up from nothing
# make test  everything CI checks, save the page: make test-web
#
# Needs Python 3.11+, make and a C++ compiler. Everything else goes into .venv and .uv
# in this folder; the model goes into the store (FREEHOLD_HOME, or your data folder).

UV_VERSION := 0.13.9
MODEL ?= qwen2.5-coder:0.5b
PROMPT ?= Write a Python function that tells whether a year is a leap year, and say why it is right.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
FLAGS := $(shell $(PYTHON) src/freehold/machine/compiler.py $${CXX:-c++} 2>/dev/null)
NATIVE := $(if $(FLAGS),--config-settings-package "llama-cpp-python:cmake.define.CMAKE_CXX_FLAGS=$(FLAGS)")
SYNC := UV_PYTHON_DOWNLOADS=never $(UV) sync --locked --quiet $(NATIVE)

.PHONY: run test test-vllm quick check bench soak lock web web-types test-web wheel clean

run: .venv/ready-run
	@.venv/bin/freehold run $(MODEL) "$(PROMPT)" </dev/null

# Tests on the real model measure and use every core: they run one at a time.
test: check
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not weights and not vllm"
	.venv/bin/python -m pytest -m "weights and not vllm"

# The engines' contract and the dialects on vLLM (CPU), which is installed into .cache: 5 GB.
test-vllm: .venv/ready-test
	.venv/bin/python -m tests.support.vllm </dev/null
	.venv/bin/python -m pytest -m vllm

# The tests that need no native code and no weights: seconds, for the inner loop.
quick: .venv/ready-test
	.venv/bin/python -m pytest -n 2 --dist loadfile -m "not native and not weights and not vllm"

check: .venv/ready-test
	.venv/bin/ruff format --check src tests benchmarks
	.venv/bin/ruff check src tests benchmarks
	.venv/bin/mypy

# Side by side with the servers people use instead: docs/benchmarks.md. BENCH="--model q4_0" and so on.
bench: .venv/ready-test
	.venv/bin/python -m benchmarks $(BENCH)

# Half an hour of random load on the engine; `make test` has a short one.
soak: .venv/ready-test
	.venv/bin/python -m tests.support.soak 30

# The page for people, built into src/freehold/web_page; needs Node 20.19 or newer.
web: web/node_modules/ready
	npm --prefix web run --silent build -- --logLevel warn

# The page's types, after the API has changed.
web-types: web/node_modules/ready .venv/ready-test
	.venv/bin/python -m tests.support.page_api
	npm --prefix web run --silent types

# The page in a real browser, against the real server. Needs Node and Chromium.
test-web: web .venv/ready-test
	npm --prefix web run --silent check
	npm --prefix web run --silent test
	$(SYNC) --inexact --group browser
	.venv/bin/python -m pytest tests/browser

web/node_modules/ready: web/package.json web/package-lock.json
	@command -v npm >/dev/null || { echo "Node is needed for the page: install it (Debian: apt install nodejs npm), then run make again." >&2; exit 1; }
	npm --prefix web ci --silent
	@touch $@

.venv/ready-run: pyproject.toml uv.lock | toolchain
	@echo "Setting up .venv; llama.cpp is compiled for this machine, which takes a few minutes."
	@$(SYNC) --no-dev --inexact
	@touch $@

.venv/ready-test: pyproject.toml uv.lock | toolchain
	@echo "Setting up .venv; llama.cpp is compiled for this machine, which takes a few minutes."
	@$(SYNC)
	@touch $@

.PHONY: toolchain
toolchain: $(if $(wildcard $(UV)),,.uv/bin/uv)
	@command -v $${CXX:-c++} >/dev/null || { echo "A C++ compiler is needed: install g++ or clang, then run make again." >&2; exit 1; }

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -m venv .uv || { echo "Python's venv module is missing: install it (Debian: apt install python3-venv), then run make again." >&2; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

lock:
	$(UV) lock

wheel: .venv/ready-run
	$(UV) build --wheel

clean:
	rm -rf .venv .uv dist src/freehold/web_page web/node_modules
