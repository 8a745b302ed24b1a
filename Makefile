# make demo: train, export and validate a small model.   make test: the test suite.
# Both make the virtual environment .venv first. Python 3.11 to 3.13 is all they need.

PYTHON ?= python3
VENV ?= .venv
# The version that aurep's figures were measured with; installed first, so that nothing else chooses another.
TORCH ?= torch==2.13.0
# Without their dependencies, which would choose another torch: the tests of ImageNet's transforms and of timm's models.
VISION ?= torchvision==0.28.0 timm==1.0.31

BIN := $(VENV)/bin

.PHONY: demo test clean

demo: $(VENV)/.demo
	$(BIN)/aurep demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo]"
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,dev,hf]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(VISION)
	touch $@

clean:
	rm -rf $(VENV) .typed build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
