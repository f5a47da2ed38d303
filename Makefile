# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
PYTHON ?= python3
NEWEST ?= python3.13
VENV := .venv
RUN := $(VENV)/bin/
WORKERS ?= 2
# Options of the demo, as in: make demo DEMO=--quick
DEMO ?=

.PHONY: demo test test-all test-newest check format golden clean

demo: $(VENV)/.demo
	$(RUN)jaxinit demo --out out/report.html $(DEMO)

test: $(VENV)/.test
	$(RUN)python -m pytest -n $(WORKERS) --dist worksteal

test-all: $(VENV)/.test
	$(RUN)python -m pytest -n $(WORKERS) --dist worksteal --long

# The newest jax and flax on the newest Python: what the next users will have.
test-newest:
	test -d .venv-newest || $(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade -e '.[test]'
	.venv-newest/bin/python -m pytest -n $(WORKERS) --dist worksteal

# Style, types, and every example in docstrings, README and docs.
check: $(VENV)/.test
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)ty check --python $(VENV)
	$(RUN)python -m pytest -q -p no:cacheprovider --doctest-modules jaxinit
	$(RUN)python -m pytest -q -p no:cacheprovider tests/documents.py

# Record the draws of the installed jax; see docs/stability.md.
golden: $(VENV)/.test
	$(RUN)python tests/golden.py

format: $(VENV)/.test
	$(RUN)ruff check --fix-only .
	$(RUN)ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(RUN)python -m pip install --quiet -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .venv-newest
