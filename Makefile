# make demo   set everything up and make a video
# make test   set everything up and pass all checks
# make up     start the local cluster, operator and pool, and leave them running; make down stops them
# make cluster  start a cluster with real pods, needs root, and leave it running; make cluster-down stops it

PYTHON := $(firstword $(foreach name,python3.11 python3 python,\
	$(shell $(name) -c 'import sys; sys.version_info[:2] == (3, 11) and print("$(name)")' 2>/dev/null)))
RUN := .venv/bin/python

.PHONY: setup up down demo cluster cluster-down test lint bench generate lock environment programs cluster-programs all-programs

# Go programs are built while pip installs; -j2 makes the two run side by side.
setup: .venv/made
	@$(MAKE) --no-print-directory -j2 environment all-programs

up demo: .venv/made
	@$(MAKE) --no-print-directory -j2 environment programs
	@$(RUN) -m dev $@

cluster: .venv/made
	@$(MAKE) --no-print-directory -j2 environment cluster-programs
	@$(RUN) -m dev cluster

down cluster-down: .venv/made
	@$(MAKE) --no-print-directory environment
	@$(RUN) -m dev $@

test: setup lint
	@$(RUN) -m pytest

lint: .venv/made environment
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup
	@$(RUN) -m pytest tests/bench --override-ini python_files='bench_*.py' --capture no

generate: .venv/made environment
	@$(RUN) -m videojob.api.crds manifests/crds
	@$(RUN) -m dev.metrics_doc docs/metrics.md
	@$(RUN) -m dev.dashboards charts/videojob/dashboards
	@$(RUN) -m dev.chart

# The lock names no registry: hashes hold whatever mirror the files come from.
lock: .venv/made environment
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

.venv/made:
	@test -n "$(PYTHON)" || { echo "videojob needs Python 3.11 on PATH (python3.11 or python3): install it, then run make again." >&2; exit 1; }
	@echo "Creating .venv with $(PYTHON) ..."
	@$(PYTHON) -m venv .venv && touch $@
