# Two commands: `make gsm8k` runs the example, `make test` the tests. Each makes .venv first, once.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# OMP_NUM_THREADS: busy threads on contended cores were seen ten times slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help gsm8k gsm8k-file test test-slow test-gpu check bench clean

help:
	@echo "make gsm8k       all stages on generated GSM8K-style problems, 9 minutes on 2 idle CPU cores"
	@echo "make gsm8k-file  all stages on the GSM8K files (RLEIF_DATA=folder that holds gsm8k/)"
	@echo "make test        the tests;  make test-slow, make test-gpu: the long ones, the ones for a GPU"
	@echo "make check       ruff, pyright and the tests"
	@echo "make bench       the benchmarks"

gsm8k: $(READY)
	$(BIN)/python -m rleif run examples/configs/gsm8k_symbolic.yaml

gsm8k-file: $(READY)
	$(BIN)/python -m rleif run examples/configs/gsm8k_file.yaml

test: $(READY)
	$(PYTEST) -n 2

test-slow: $(READY)
	$(PYTEST) -m slow

test-gpu: $(READY)
	$(PYTEST) -m gpu

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(PYTEST) -n 2

bench: $(READY)
	@set -e; for script in $$(find benchmarks -name '*.py' -not -name '_*' -not -path '*/quality/*' | sort); do \
	  echo "$$script"; OMP_NUM_THREADS=1 $(BIN)/python "$$script"; done

clean:
	rm -rf $(VENV)

# The first Python that is new enough makes the environment. torch goes first and alone, so that where pip offers the
# small CPU build that one is kept.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "rleif needs Python 3.11 or newer; found: $$(python3 --version 2>/dev/null || echo none)." \
	    "Install one, or say: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; \
	fi; \
	if ! "$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  "$$found" -m venv --clear $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@
