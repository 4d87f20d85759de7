# Everything a developer or an operator types. `make` alone lists it.
PYTHON ?= python3
VENV ?= .venv
GPU_PYTHON ?= $(PYTHON)
# For example PIP_FLAGS="--index-url URL" behind a mirror, or for another build of torch.
PIP_FLAGS ?=
# Processes that share the tests: one for each core, but each takes a gigabyte.
TEST_PROCESSES ?= -n logical --maxprocesses 4 --dist loadfile
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
SERVE_READY := $(VENV)/.ready-to-serve
DEV_READY := $(VENV)/.ready-to-develop
CLIENTS := .venv-clients
CLIENTS_READY := $(CLIENTS)/.ready

.PHONY: help serve test lint fix bench kernels sanitize wheel mutants audit clients fuzz soak soak-generation gpu-check compose-test load cluster clean
.DEFAULT_GOAL := help

help: ## list the targets
	@echo "Deep Delta serving. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-18s %s\n", $$1, $$2}'
	@echo 'Options: ARGS="..." for the program, PYTHON=python3.12, VENV=.venv, PIP_FLAGS="..." for pip.'

serve: $(SERVE_READY) kernels ## set up what serving needs (no torch) and serve models/ at http://127.0.0.1:8000
	@$(BIN)/ddl-serve $(ARGS)

test: $(DEV_READY) $(CLIENTS_READY) kernels ## set up everything (torch included) and run the tests
	@$(BIN)/python -m pytest $(TEST_PROCESSES) $(ARGS)

lint: $(DEV_READY) ## ruff, mypy --strict, import contracts, clang-format, Dockerfile lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/clang-format --dry-run --Werror export/kernels/cpp/*.cc export/kernels/cpp/*.cu export/kernels/cpp/*.h benchmarks/*.cc
	@$(BIN)/hadolint docker/*.Dockerfile

fix: $(DEV_READY) ## format and mend what the linters can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i export/kernels/cpp/*.cc export/kernels/cpp/*.cu export/kernels/cpp/*.h benchmarks/*.cc

bench: $(DEV_READY) kernels ## time the delta op beside its alternatives; ARGS="--out FILE" keeps the table
	@$(BIN)/python -m benchmarks.bench_op $(ARGS)

kernels: $(SERVE_READY) ## compile the op library (needs a C++ compiler; without one the plain body runs)
	@$(BIN)/python -m export.kernels.build --if-possible

sanitize: $(SERVE_READY) ## run the kernels' checks under the address and undefined behaviour sanitizers
	@$(BIN)/python -m export.kernels.sanitize

wheel: $(SERVE_READY) ## build a wheel with the op library into dist/; ARGS="-C ddl.kernels=cuda" adds the CUDA kernels
	@$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps -w dist $(PIP_FLAGS) $(ARGS) .

mutants: $(DEV_READY) ## change one formula of the model at a time and see that a test notices (about 6 minutes)
	@$(BIN)/python -m tests.mutants $(ARGS)

clients: $(CLIENTS_READY) ## install the clients of Triton, KServe and OpenAI, which the tests let loose on the service

fuzz: $(DEV_READY) ## fuzz the request parsers, guided by coverage; ARGS="-max_total_time=600" for ten minutes
	@$(PIP) atheris
	@$(BIN)/python -m tests.service.protocol.fuzz $(or $(ARGS),-max_total_time=60)

soak: $(DEV_READY) ## ask a service everything for half an hour: memory, files, threads; ARGS="--seconds 60" for a minute
	@$(BIN)/python -m tests.service.reliability.soak $(ARGS)

soak-generation: $(DEV_READY) ## let 64 streams run and leave for ten minutes: nothing lost, memory flat, the same tokens as alone
	@SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(BIN)/python -m pytest -q --timeout 3600 tests/service/generation/test_soak.py

audit: $(DEV_READY) ## known holes in the pinned dependencies; AUDIT_REQUIRED=1 fails where it cannot be known
	@$(BIN)/python -m tests.audit

gpu-check: ## on a machine with an NVIDIA card: build, check and time the CUDA kernels; GPU_PYTHON=... chooses the Python
	@$(GPU_PYTHON) -m benchmarks.gpu_check $(ARGS)

compose-test: $(DEV_READY) ## build the images, start docker-compose.yml for real and try it; makes an engine on Debian 12
	@$(BIN)/python -m pytest --timeout=1800 tests/docker/compose.py $(ARGS)

load: $(DEV_READY) ## measure a running service at growing concurrency; ARGS="--host http://127.0.0.1:8000 --seconds 15"
	@$(BIN)/python docker/load/curve.py $(ARGS)

cluster: $(DEV_READY) kernels ## try service/cluster.py on a Ray cluster of two nodes on this machine, one of which dies
	@$(BIN)/python -m pytest --timeout=600 tests/cluster/two_nodes.py $(ARGS)

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) $(CLIENTS) build dist service/runtime/lib *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(SERVE_READY): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing what serving needs ..."
	@$(PIP) -e '.[service,kernels]'
	@touch $@

# torch first and alone: pip then takes the build that its configuration offers, and nothing after replaces it.
$(DEV_READY): $(SERVE_READY)
	@echo "Installing torch and the development tools ..."
	@$(PIP) torch
	@$(PIP) -e '.[service,kernels,train,export,dev]'
	@touch $@

# Their pins contradict the service's, so they live apart and without its constraints.
$(CLIENTS_READY): tests/clients/requirements.txt
	@echo "Installing the clients of Triton, KServe and OpenAI in $(CLIENTS) ..."
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -r tests/clients/requirements.txt
	@touch $@
