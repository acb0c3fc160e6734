# Two commands from a clean clone: `make quickstart` and `make test`. Nothing outside this folder is touched.
#   PYTHON=python3.12   interpreter for the virtual environment (3.11 or newer)
#   VENV=.venv          where the environment goes
SHELL = /bin/sh
PYTHON ?= python3
VENV ?= .venv
BENCH ?=

BIN = $(VENV)/bin
RECIPE = pipelines/quickstart/recipe.yaml
DATA = data/digits.parquet
RESULT = build/quickstart/train

.PHONY: help quickstart test lint bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make quickstart   install into $(VENV), make the example data, build the example, name its report'
	@echo 'make test         install the test tools too; ruff, mypy and pytest'
	@echo 'make lint         ruff and mypy only'
	@echo 'make bench        run a benchmark: make bench BENCH=NAME'
	@echo 'make clean        remove $(VENV), build/, $(DATA) and caches'

quickstart: $(VENV)/.package $(DATA)
	$(BIN)/curate build $(RECIPE)
	@$(BIN)/python -c "import curation; print('report:', curation.open('$(RESULT)').manifest.path('report'))"

# All checks run even if one fails, so that everything wrong shows in one go; pytest's closing line comes last.
test: $(VENV)/.tools
	@code=0; $(LINT) \
	echo '$$ pytest'; $(BIN)/python -m pytest || code=1; \
	exit $$code

lint: $(VENV)/.tools
	@code=0; $(LINT) exit $$code

LINT = echo '$$ ruff check .'; $(BIN)/ruff check . || code=1; \
	echo '$$ ruff format --check .'; $(BIN)/ruff format --check . || code=1; \
	echo '$$ mypy --strict'; $(BIN)/mypy --strict || code=1;

bench: $(VENV)/.tools
	$(BIN)/python -m benchmarks $(BENCH)

$(VENV)/.package: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON): Python 3.11 or newer is needed; say e.g. make PYTHON=python3.12 quickstart" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -qq --editable .
	$(BIN)/python -m curation.warmup
	@touch $@

# Dependency groups (PEP 735) are read by pip 25.1 and newer; the rule above has brought one.
$(VENV)/.tools: $(VENV)/.package
	$(BIN)/python -m pip install -qq --group dev
	@touch $@

$(DATA): pipelines/quickstart/make_data.py $(VENV)/.package
	$(BIN)/python pipelines/quickstart/make_data.py $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis $(DATA)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
