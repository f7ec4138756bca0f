# `make demo` runs the main job, `make test` the tests; both set everything up first.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
# A network starts a dozen processes: what one compiled, the next only loads.
unexport PYTHONDONTWRITEBYTECODE

# Networks of real processes run in one worker, everything else beside them.
WORKERS ?= -n 2

.PHONY: install demo test test-all sim check bench bench-inference bench-tables format clean

install: $(STAMP)

# torch goes in first and alone, so that the pinned CPU build is never replaced.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "==> virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "==> torch (about 200 MB, a minute or two)"
	@$(BIN)/pip install --disable-pip-version-check --progress-bar on torch==2.13.0
	@echo "==> p2pchain and everything else"
	@$(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: install
	@$(BIN)/p2pchain demo $(ARGS)

test: install check
	@$(BIN)/python -m pytest -m "not slow" -q $(WORKERS) $(ARGS)

test-all: install check
	@$(BIN)/python -m pytest --hypothesis-profile=thorough -q $(WORKERS) $(ARGS)

# `make sim SEED=n` replays one seed; without it, the first hundred.
sim: install
	@$(BIN)/p2pchain sim --seeds $(if $(SEED),$(SEED):$$(($(SEED) + 1)),0:100) $(ARGS)

check: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: install
	@$(BIN)/python -m p2pchain.bench $(ARGS)

# The inference engine beside `generate`; needs 12 GB of disk and as much memory.
bench-inference: install
	@$(BIN)/python -m p2pchain.bench.inference --json bench-inference.json $(ARGS)

# Puts the last run's tables into the documents.
bench-tables: install
	@$(BIN)/python -m p2pchain.bench.tables bench-inference.json --into docs/benchmarks.md

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
