# make demo: the main job on a bare machine.  make test: all fast tests.  Both make their own environment first;
# afterwards `. .venv/bin/activate` puts `systolora` on the PATH.
PYTHON ?= python3
ENV := .venv
RUN := $(ENV)/bin

.PHONY: help demo test test-pynq test-pythons lint slow docs env clean

help:         ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(ENV)/.main  ## teach the built-in model a new concept in INT8 and in float32; writes demo-out/index.html
	$(RUN)/systolora demo --out demo-out
	@echo 'For the other commands: . $(RUN)/activate, then systolora --help'

test: $(ENV)/.test  ## all fast tests
	$(RUN)/python -m pytest

test-pynq:  ## the board driver on the real pynq package, 4.0.0 and 3.0.1
	tests/pynq/run.sh

# Every other supported Python that is found. PYTHONS_TORCH=3.10 trains on it too, which may fetch gigabytes.
test-pythons: $(ENV)/.test  ## every other supported Python that is found: generation, C-simulation, driver
	$(RUN)/python tests/pythons/run.py --torch "$(PYTHONS_TORCH)"

slow: $(ENV)/.test  ## the tests that take minutes
	$(RUN)/python -m pytest -m slow --hypothesis-profile fresh

lint: $(ENV)/.test  ## ruff (lint and format) and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	rm -rf build/typecheck build/lib build/bdist.* && $(RUN)/pip install --quiet --no-deps --target build/typecheck .
	MYPYPATH=build/typecheck $(RUN)/mypy -p systolora

docs: $(ENV)/.docs  ## the documentation as a site, notebooks run: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --quiet --strict
	@echo 'build/site/index.html'

env: $(ENV)/.test  ## the environment with everything that tests need, in .venv

$(ENV)/.main: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("systolora needs Python 3.10 or newer: make PYTHON=python3.11" if sys.version_info < (3, 10) else 0)'
	test -x $(RUN)/pip || $(PYTHON) -m venv $(ENV) || { echo "python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	$(RUN)/pip install --quiet --constraint constraints.txt torch
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[train,lint]'
	touch $@

$(ENV)/.test: $(ENV)/.main
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[train,test]'
	touch $@

$(ENV)/.docs: $(ENV)/.test
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[train,test,docs]'
	touch $@

clean:  ## removes what was built; environments stay
	rm -rf build dist demo-out *.egg-info
