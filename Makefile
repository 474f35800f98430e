# Two commands do most: `make demo` shows the whole path, `make test` proves it. Whichever runs first makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARTIFACT ?= demo-out/artifact
DATA ?= demo-out/data

.PHONY: demo test check format bench faults serve docker-test clean

demo: $(VENV)/.installed
	$(BIN)/dinodex demo

# All but the service in two processes, for half of their time is waiting; the service alone, for its tests hold it to milliseconds.
IN_TWO := tests/system tests/training tests/backbone tests/contract tests/compat tests/dinodex tests/test_rooms.py
# HEIC's decoder lies beside the environment, as people have none unless they ask for it.
WITH_HEIC := tests/backbone/test_heif.py tests/backbone/test_formats.py tests/service/embedding/test_decoder_pool.py
test: $(VENV)/heic
	$(BIN)/python -m pytest $(IN_TWO:%=--ignore=%)
	$(BIN)/python -m pytest $(IN_TWO) -n 2 --dist loadfile
	PYTHONPATH=$(CURDIR)/$(VENV)/heic $(BIN)/python -m pytest $(WITH_HEIC) -k u06

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed # an hour and more: most of it building a million points, here and in the peers
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/run.py

faults: $(VENV)/.installed # kills, full disks and lost processes, many times and at random moments; prints its figures
	$(BIN)/python -m pytest tests/faults -s -o timeout=3600 -o addopts="--import-mode=importlib --strict-markers --strict-config -ra"

serve: $(VENV)/.installed # without a key, for this machine only
	DINODEX_ALLOW_ANONYMOUS=1 $(BIN)/dinodex serve --artifact $(ARTIFACT) --data $(DATA)

docker-test: $(VENV)/.installed
	PYTHON=$(BIN)/python docker/test

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	touch $@

$(VENV)/heic: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ 'pillow-heif>=1.1'

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
