# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PY := .venv/bin/python
UV := .venv/bin/uv
# A file's tests share what is costly to start, so a file stays in one process. The longest files
# are in the folders that come first; by itself xdist would begin with those of the most tests.
# Tests wait a third of their time, so there are two processes more than cores; each takes gigabytes.
SIDE_BY_SIDE := -n $(shell n=$$(( $$(nproc) + 2 )); echo $$(( n > 4 ? 4 : n ))) --dist loadfile --no-loadscope-reorder
# Roll-outs first, beside a file that trains one model at a time: the half second after a verdict is
# no promise beside twenty trainers. What waits for the example comes last.
E2E_FIRST := tests/e2e/test_rollouts.py tests/e2e/test_faults.py
E2E_APART := tests/e2e/test_autoscaling.py tests/e2e/test_ollama.py tests/e2e/test_kueue.py tests/e2e/test_outage.py tests/e2e/test_vllm.py
E2E := $(E2E_FIRST) $(filter-out $(E2E_FIRST) $(E2E_APART),$(sort $(wildcard tests/e2e/test_*.py)))
# A Gateway API implementation, for one test.
GATEWAY := contour envoy
# An inference engine, likewise.
ENGINES := ollama
BINARIES := etcd kube-apiserver kube-controller-manager kubectl helm versitygw

# Waiting threads of torch must not spin: tests and cluster share the cores.
export OMP_WAIT_POLICY := PASSIVE
# Tests start dozens of programs: our code is compiled once, not in each of them.
export PYTHONDONTWRITEBYTECODE :=
# What was checked in one checkout need not be in the next: 25 s.
export MYPY_CACHE_DIR ?= $(or $(TUNESMITH_CACHE),$(HOME)/.cache/tunesmith)/mypy

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.venv/bin/uv: requirements/uv.txt
	@echo "[setup] creating .venv"
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet --no-deps --require-hashes -r requirements/uv.txt
	@touch $@ # the wheel keeps an old date

.venv/.stamp-demo: requirements/demo.txt | .venv/bin/uv
	@echo "[setup] installing what the demo needs on this machine"
	@$(UV) pip install --quiet --compile-bytecode --no-deps --require-hashes -r requirements/demo.txt
	@touch $@

.venv/.stamp-dev: requirements/dev.txt | .venv/bin/uv
	@echo "[setup] installing the development environment (about 5 GB with torch, a minute or two)"
	@$(UV) pip install --quiet --compile-bytecode --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

include deploy/deploy.mk

.PHONY: setup format lint verify generate test unit simulate integration test-install test-gateway test-ollama test-vllm test-llama-cpp test-autoscaling test-kueue test-outage e2e bench-operator bench-fleet bench-sidecar bench-router bench-rollback lock clean bench-training bench-data bench-memory bench-s3 bench-checkpoint bench-resume bench-gguf bench
setup: .venv/.stamp-dev ## Make the development environment

format: .venv/.stamp-dev ## Format the code
	@$(PY) -m ruff format --quiet .
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format --quiet .

lint: .venv/.stamp-dev ## Formatting, lint, types, import rules
	$(PY) -m ruff format --check --quiet .
	$(PY) -m ruff check --quiet .
	$(PY) -m mypy
	$(PY) -m mypy deploy benchmarks
	PYTHONPATH=operator:trainer_image .venv/bin/lint-imports --no-cache > /dev/null || PYTHONPATH=operator:trainer_image .venv/bin/lint-imports --no-cache

generate: .venv/.stamp-dev ## Write the CRDs, docs/conditions.md and docs/reference.md from operator/tunesmith_api
	@PYTHONPATH=operator $(PY) -m tunesmith_api.generate .

verify: .venv/.stamp-dev ## Fail when a generated file is not what operator/tunesmith_api says
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	for file in $$(PYTHONPATH=operator $(PY) -m tunesmith_api.generate "$$out"); do \
	    diff -u "$${file#$$out/}" "$$file" || { echo "run 'make generate' and commit"; exit 1; }; \
	done

.PHONY: binaries
binaries: .venv/.stamp-dev # What tests need besides Python; built once, kept in the cache
	@$(PY) -m deploy test-tools $(BINARIES)

unit: binaries ## Unit tests and the simulation
	$(PY) -m pytest tests/unit tests/simulation -q

simulate: .venv/.stamp-dev ## The simulation with many more random worlds (WORLDS=5000)
	TUNESMITH_WORLDS=$(or $(WORLDS),5000) $(PY) -m pytest tests/simulation -q

integration: binaries ## Against a real kube-apiserver and etcd
	$(PY) -m pytest tests/integration -q

test: binaries lint verify ## Lint, types, import rules, unit, simulation, trainer, serving, command line, integration
	$(PY) -m pytest tests/integration tests/cli tests/trainer tests/simulation tests/sidecar tests/metrics tests/router tests/unit -q $(SIDE_BY_SIDE) --ignore=tests/integration/test_contour.py

test-install: .venv/.stamp-dev ## The command line out of a fresh `pip install ".[trainer,cli]"`, away from the checkout (two minutes, 6 GB for as long)
	$(PY) -m pytest tests/install -q

test-gateway: binaries ## Routes before a real Gateway, Contour with Envoy (builds Contour the first time)
	@$(PY) -m deploy test-tools $(GATEWAY)
	$(PY) -m pytest tests/integration/test_contour.py -q -rP

test-ollama: .venv/.stamp-dev ## A real Ollama takes our artifact, alone, behind the sidecar, and in pods of the native cluster (builds Ollama the first time)
	@$(PY) -m deploy test-tools $(ENGINES)
	$(PY) -m pytest tests/trainer/test_ollama.py tests/sidecar/test_ollama.py tests/e2e/test_ollama.py -q -rP

test-llama-cpp: .venv/.stamp-dev ## GGUF files in llama.cpp's own server, K-quants by its llama-quantize (gets both from Debian the first time; needs root)
	export LLAMA_SERVER=$$($(PY) -m deploy test-tools --llama-server); \
	PATH="$$(dirname "$$LLAMA_SERVER"):$$PATH" $(PY) -m pytest tests/trainer/test_llama_cpp.py tests/trainer/test_artifacts.py tests/cli/test_gguf.py -q

test-vllm: .venv/.stamp-dev ## A real vLLM without a GPU: our models and adapters, the sidecar before it, pods of the native cluster (3 GB to download the first time)
	export VLLM=$$($(PY) -m deploy test-tools --vllm); \
	$(PY) -m pytest tests/vllm tests/e2e/test_vllm.py -q

e2e: .venv/.stamp-dev ## Real pods on the native cluster
	$(PY) -m pytest $(E2E) -q -n 2 --dist loadfile --no-loadscope-reorder

test-autoscaling: .venv/.stamp-dev ## An autoscaler driven by real load on the native cluster (builds metrics-server the first time)
	$(PY) -m pytest tests/e2e/test_autoscaling.py -q

test-outage: .venv/.stamp-dev ## The native cluster's API server does not answer for five minutes of a training and a roll-out
	$(PY) -m pytest tests/e2e/test_outage.py -q

test-kueue: .venv/.stamp-dev ## Jobs that wait for quota and are preempted by a real Kueue on the native cluster (builds Kueue the first time)
	$(PY) -m pytest tests/e2e/test_kueue.py -q

bench-operator: binaries ## 500 FineTuneJobs at once against a real API server
	PYTHONPATH=operator $(PY) -m benchmarks.bench_operator

bench-fleet: binaries ## Thousands of FineTuneJobs, 5 % edited a minute (OBJECTS=1000)
	PYTHONPATH=operator $(PY) -m benchmarks.bench_fleet --objects $(or $(OBJECTS),1000)

bench-sidecar: .venv/.stamp-dev ## What the sidecar costs: direct against through it
	PYTHONPATH=operator $(PY) -m benchmarks.bench_sidecar

bench-router: .venv/.stamp-dev ## What the router costs, and how fast a new split takes effect (needs haproxy)
	PYTHONPATH=operator $(PY) -m benchmarks.bench_router

bench-rollback: .venv/.stamp-dev ## What a canary costs that fails every request (needs the native cluster)
	$(PY) -m benchmarks.bench_rollback

bench-s3: binaries ## How fast the trainer moves objects, beside plain boto3
	PYTHONPATH=operator:trainer_image $(PY) -m benchmarks.bench_s3

bench-checkpoint: binaries ## What checkpoints cost while training goes on
	PYTHONPATH=operator:trainer_image $(PY) -m benchmarks.bench_checkpoint

bench-training: .venv/.stamp-dev ## Training speed against TRL, in turns (STEPS=57 DEVICE=cuda; installs TRL into the cache)
	PYTHONPATH=operator $(PY) -m benchmarks.bench_training --device $(or $(DEVICE),auto) $(if $(STEPS),--steps $(STEPS))

bench-data: .venv/.stamp-dev ## How fast data is cleaned and deduplicated, and what is found
	PYTHONPATH=operator:trainer_image $(PY) -m benchmarks.bench_data

bench-memory: .venv/.stamp-dev ## Memory of the prepare stage, for 10 MB and 200 MB of rows
	PYTHONPATH=operator:trainer_image $(PY) -m benchmarks.bench_memory

bench-resume: .venv/.stamp-dev ## By what a run that was killed and stopped differs from one let alone
	PYTHONPATH=operator:trainer_image $(PY) -m benchmarks.bench_resume

bench-gguf: .venv/.stamp-dev ## GGUF files beside those of llama.cpp's converter (installs it into the cache)
	PYTHONPATH=operator:trainer_image $(PY) -m benchmarks.bench_gguf

# All of the trainer's; a missed target does not keep the next from being measured.
bench: binaries ## The trainer's benchmarks one after the other, with all their targets (half an hour)
	@missed=""; for name in training data memory s3 checkpoint resume gguf; do \
	    echo "== bench-$$name"; $(MAKE) --no-print-directory bench-$$name || missed="$$missed $$name"; \
	done; [ -z "$$missed" ] || { echo "missed:$$missed"; exit 1; }

lock: .venv/bin/uv ## Pin the dependencies again
	PATH="$(CURDIR)/.venv/bin:$$PATH" requirements/compile.sh

clean: ## Remove the environment and caches of this checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
