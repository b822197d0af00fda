# Every target works in .venv, which it makes first. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: help serve test test-gpu lint bench generate pins train check-image clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: .venv/server ## Start the server on the bundled models (pass flags with ARGS="--port 9000")
	$(BIN)/convserve serve $(ARGS)

test: .venv/dev ## Set up and run all tests (pass pytest flags with ARGS="-k batching")
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: .venv/dev ## Check style, types, import directions and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos

test-gpu: .venv/dev ## Run the checks that need a CUDA device (install onnxruntime-gpu in place of onnxruntime first)
	$(BIN)/python -m pytest -m gpu $(ARGS)

bench: .venv/dev ## Measure against raw onnxruntime, bare grpcio and the peers installed; results go to benchmarks/results
	$(BIN)/python -m benchmarks.throughput $(ARGS)
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.peers.environments client
	$(BIN)/python -m benchmarks.peers

generate: ## Generate the Python code of protos/ into service/
	protos/generate.sh

pins: ## Compile requirements/*.txt anew (needs uv)
	requirements/compile.sh

train: .venv/dev ## Train, prove and publish the bundled models (data: ARGS="--data-dir DIR")
	$(BIN)/convtrain run mnist --model-repository models $(ARGS)
	$(BIN)/convtrain run cifar10 --model-repository models $(ARGS)

check-image: .venv/dev ## Build the image, run it hardened in Docker and podman, drain it (ARGS="--twice": compare two builds)
	$(BIN)/python -m scripts.check_image $(ARGS)

clean: ## Remove the environments and caches
	rm -rf .venv .venv-generate .venv-contract-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convserve needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	touch $@

# The stamps hold what was installed; a changed requirement file installs anew.
.venv/server: .venv/python requirements/server.txt requirements/build.txt pyproject.toml
	$(PIP) -r requirements/server.txt -r requirements/build.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

.venv/dev: .venv/server requirements/dev.txt
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14) and "TensorFlow needs Python 3.11 to 3.13: make clean, then for example make test PYTHON=python3.13")'
	$(PIP) -r requirements/dev.txt
	touch $@
