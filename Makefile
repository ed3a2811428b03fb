# Everything a developer types. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PY := .venv/bin/python
UV := .venv/bin/uv

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.venv/bin/uv:
	@echo "[setup] creating .venv"
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet uv==0.13.8

.venv/.stamp-demo: requirements/demo.txt | .venv/bin/uv
	@echo "[setup] installing what the demo needs on this machine"
	@$(UV) pip install --quiet --no-deps --require-hashes -r requirements/demo.txt
	@touch $@

.venv/.stamp-dev: requirements/dev.txt | .venv/bin/uv
	@echo "[setup] installing the development environment (about 5 GB with torch, a minute or two)"
	@$(UV) pip install --quiet --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

include deploy/deploy.mk
