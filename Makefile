# Everything sets itself up: a machine needs python3 with venv, and make. Extra arguments for pip
# go into PIP_ARGS (CONTRIBUTING.md shows the CPU build of torch); PINS= takes the newest versions.
PYTHON ?= python3
PINS ?= -c constraints.txt
PIP_ARGS ?=
BIN := .venv/bin
READY := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo demo-update test tests test-slow test-gpu tensorrt lint types fix bench-camvid bench-train build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PINS) -e ".[train,cpu,openvino,quant,trtcheck,dev]" $(PIP_ARGS)
	touch $@

demo: $(READY) ## train, extend, export and compare on generated images, on the CPU
	$(BIN)/edgeinc demo

demo-update: $(READY) ## publish steps to a device that serves a video: one is taken, a bad one is not
	$(BIN)/edgeinc demo-update

test: lint types tests ## the whole gate: style, types, layers, tests

tests: $(READY) ## the tests alone
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## the tests that take minutes
	$(BIN)/pytest -m slow --timeout 3600

test-gpu: $(READY) ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu

tensorrt: $(READY) ## the tests on TensorRT and a GPU, with a report for an issue
	$(BIN)/python tests/tensorrt_report.py

lint: $(READY) ## style and layers
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/lint-imports

types: $(READY) ## static types
	$(BIN)/mypy

fix: $(READY) ## mend what ruff can mend
	$(BIN)/ruff check --fix && $(BIN)/ruff format

bench-camvid: $(READY) ## the three-step CamVid benchmark (hours; needs the data)
	$(BIN)/python benchmarks/camvid_3task.py

bench-train: $(READY) ## the speed of training
	$(BIN)/python benchmarks/train_speed.py

build: $(READY) ## the wheel and the source archive, in dist/
	$(BIN)/python -m build

clean: ## remove builds and caches, nothing else
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
