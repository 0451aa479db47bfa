# The two commands a newcomer needs are `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help quickstart test check format bench clean

help:
	@echo "make quickstart   environment, install, then train, distil, export, validate and time on embedded data"
	@echo "make test         environment, then the test suite"
	@echo "make check        formatting, lint and types"
	@echo "make bench        the benchmarks that print ratios (nothing else should run meanwhile)"

# Torch is the larger part of this: about 6 GB, some minutes on a slow line.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

quickstart: $(READY)
	$(BIN)/compress train --recipe digits-teacher --out runs/quickstart-teacher --overwrite
	$(BIN)/compress run digits-bss --teacher runs/quickstart-teacher --out runs/quickstart --overwrite

test: $(READY)
	# One thread a worker: two pools of threads on the same cores wait for each other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/bss_step.py
	$(BIN)/python benchmarks/exports.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
