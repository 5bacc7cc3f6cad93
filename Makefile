# `make demo`: set up and run the quickstart. `make test`: set up and run the fast tests. Needs python3.11+, pip and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PLUGINS := $(sort $(dir $(wildcard plugins/*/*/pyproject.toml)))
empty  :=
space  := $(empty) $(empty)
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: venv demo test slow lint types packaging docs reproduce bench clean

venv: $(STAMP)

$(STAMP): constraints.txt pyproject.toml $(wildcard plugins/*/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(PIP) hatchling editables torch
	$(PIP) --no-build-isolation -e '.[dev]' $(addprefix -e ,$(PLUGINS))
	touch $@

demo: venv
	$(BIN)/sparring run experiments/quickstart.yaml

test: venv
	$(BIN)/python -m pytest -q -n 2

slow: venv
	$(BIN)/python -m pytest -q -m slow

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: venv
	MYPYPATH=core:docs/hooks:$(subst $(space),:,$(PLUGINS)) $(BIN)/mypy core tests docs/hooks $(foreach p,$(PLUGINS),$(wildcard $(p)sparring_*))

packaging: venv
	$(BIN)/python -m pytest -q -m packaging

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# every card, and then each without its core line, when it must fail; QUICK=10 leaves out what states more seconds
reproduce: venv
	$(BIN)/sparring reproduce $(if $(QUICK),--within $(QUICK))
	$(BIN)/sparring reproduce --without-core $(if $(QUICK),--within $(QUICK))

bench: venv
	$(BIN)/python benchmarks/local_training.py

clean:
	rm -rf $(VENV) runs build dist
