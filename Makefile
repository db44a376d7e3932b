# `make` prints what there is. A target is listed with the text after `##`; every target that people call has one.

PYTHON := $(firstword $(foreach name,python3.11 python3 python,\
	$(shell $(name) -c 'import sys; sys.version_info[:2] == (3, 11) and print("$(name)")' 2>/dev/null)))
RUN := .venv/bin/python

.PHONY: help setup up down demo cluster cluster-down test lint bench generate lock environment programs cluster-programs \
	all-programs browser test-systems test-parts

help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { split($$1, names, " "); for (i in names) printf "make %-14s %s\n", names[i], $$2 }' Makefile

# Go programs are built while pip installs; -j2 makes the two run side by side.
setup: .venv/made ## Install the Python environment, build the Go programs, and fetch a browser for tests
	@$(MAKE) --no-print-directory -j2 environment all-programs browser

demo: .venv/made ## Make one video with real parts, from nothing
up: .venv/made ## Start the local cluster, operator and pool, and leave them running
demo up:
	@$(MAKE) --no-print-directory -j2 environment programs
	@$(RUN) -m dev $@

cluster: .venv/made ## Start a cluster with real pods (needs root), and leave it running
	@$(MAKE) --no-print-directory -j2 environment cluster-programs
	@$(RUN) -m dev cluster

down: .venv/made ## Stop what `make up` started
cluster-down: .venv/made ## Stop what `make cluster` started
down cluster-down:
	@$(MAKE) --no-print-directory environment
	@$(RUN) -m dev $@

# Tests of whole systems wait more than they compute, so they run beside the others. Lines of the two are told apart.
SYSTEM_TESTS := tests/cluster tests/e2e
test: setup lint ## Set everything up, and pass all checks and tests
	@$(MAKE) --no-print-directory --keep-going -j2 test-systems test-parts

test-systems test-parts: SHELL := bash
test-systems test-parts: .SHELLFLAGS := -o pipefail -c
test-systems:
	@$(RUN) -m pytest $(SYSTEM_TESTS) 2>&1 | sed --unbuffered 's/^/systems | /'

test-parts:
	@$(RUN) -m pytest tests $(SYSTEM_TESTS:%=--ignore=%) 2>&1 | sed --unbuffered 's/^/parts   | /'

# One run of mypy for code, tools and tests: its cache makes the second one take seconds.
lint: .venv/made environment ## Check format, style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup ## Run the benchmarks
	@$(RUN) -m pytest tests/bench --override-ini python_files='bench_*.py' --capture no

generate: .venv/made environment ## Write what follows from the code: CRDs, roles, install.yaml, dashboards, tables of docs
	@$(RUN) -m videojob.api.crds manifests/crds
	@$(RUN) -m dev.metrics_doc docs/metrics.md
	@$(RUN) -m dev.reasons_doc docs/troubleshooting.md
	@$(RUN) -m dev.families_doc docs/add-a-model.md
	@$(RUN) -m dev.dashboards charts/videojob/dashboards
	@$(RUN) -m dev.chart

# The lock names no registry: hashes hold whatever mirror the files come from.
lock: .venv/made environment ## Lock the newest versions of all dependencies
	.venv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-header --no-annotate \
		requirements.in --output-file requirements.lock
	.venv/bin/uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate \
		dev/programs/go.in --output-file dev/programs/go.txt
	.venv/bin/uv pip compile --quiet --generate-hashes --no-header --no-annotate --constraint requirements.lock \
		--python-platform x86_64-manylinux_2_28 --python-version 3.11 --extra operator --extra runner \
		pyproject.toml --output-file images/videojob.lock
	.venv/bin/uv pip compile --quiet --generate-hashes --no-header --no-annotate --constraint requirements.lock \
		--python-platform x86_64-manylinux_2_28 --python-version 3.12 --extra models \
		pyproject.toml --output-file images/triton.lock

environment: .venv/made
	@$(RUN) dev/environment.py

programs: .venv/made
	@$(RUN) -m dev.programs etcd kube-apiserver kubectl

cluster-programs: programs
	@$(RUN) -m dev.programs kubelet containerd ptp pause coredns versitygw helm

all-programs: .venv/made
	@$(RUN) -m dev.programs etcd kube-apiserver kubectl kubelet containerd ptp pause coredns versitygw helm helm-docs \
		prometheus kwok

browser: .venv/made
	@$(RUN) -m dev.browser

.venv/made:
	@test -n "$(PYTHON)" || { echo "videojob needs Python 3.11 on PATH (python3.11 or python3): install it, then run make again." >&2; exit 1; }
	@echo "Creating .venv with $(PYTHON) ..."
	@$(PYTHON) -m venv .venv && touch $@
