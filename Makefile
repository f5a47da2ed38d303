# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
PYTHON ?= python3
NEWEST ?= python3.13
VENV := .venv
RUN := $(VENV)/bin/
WORKERS ?= 2
PICTURES := docs/_build/pictures/.drawn
# Options of the demo, as in: make demo DEMO=--quick
DEMO ?=

.PHONY: demo test test-all test-newest check docs bench format golden clean

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
	touch $(PICTURES)

# The site, in docs/_build/html; whatever Sphinx warns of is an error.
docs: $(VENV)/.docs $(PICTURES)
	$(RUN)python -m sphinx -W --keep-going -n -q docs docs/_build/html

# The pages of the lecture draw their own pictures when they run.
$(PICTURES): $(wildcard docs/lecture/*) | $(VENV)/.test
	$(RUN)python -m pytest -q -p no:cacheprovider tests/documents.py -k lecture
	touch $@

# Every benchmark, and benchmarks/RESULTS.md; an hour, on a machine with nothing else
# to do.
bench: $(VENV)/.bench
	$(RUN)python benchmarks/results.py

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
	rm -rf $(VENV) .venv-newest docs/_build docs/api/modules
