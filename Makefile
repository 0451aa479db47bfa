# The two commands a newcomer needs are `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread a worker: two pools of threads on the same cores wait for each other.
# A file's tests stay with one worker, so that what they share is made once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
UNIT := not starts and not trains and not heavy and not slow

.PHONY: help quickstart unit test coverage check format bench clean

help:
	@echo "make quickstart   environment, install, then train, distil, export, validate and time on embedded data"
	@echo "make unit         the tests that start no process, do not train and are not heavy: for the loop of daily work"
	@echo "make test         environment, then all tests but those marked slow, which pytest -m slow runs"
	@echo "make coverage     the unit tests, and which lines they reach"
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

unit: $(READY)
	$(PYTEST) -m "$(UNIT)" --durations=5 --durations-min=1

test: $(READY)
	$(PYTEST)

coverage: $(READY)
	$(PYTEST) -m "$(UNIT)" --cov --cov-report=term:skip-covered

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/augmentation.py
	$(BIN)/python benchmarks/bss_step.py
	$(BIN)/python benchmarks/loss_terms.py
	$(BIN)/python benchmarks/exports.py
	$(BIN)/python benchmarks/batch_one.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/overhead.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
