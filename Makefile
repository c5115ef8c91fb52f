# All targets make their own environment in .venv; nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
# Processes that share the tests, a file each at a time; one thread of linear algebra in each.
WORKERS ?= 2

.PHONY: demo test lint docs install clean

demo: $(VENV)/.installed
	$(VENV)/bin/python -m rejuvenet demo --output $(DEMO)

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n $(WORKERS) --dist loadfile $(PYTEST)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	VENV=$(VENV) bash .ci/types

docs: $(VENV)/.installed
	$(VENV)/bin/python -m sphinx -q -E -W --keep-going -j auto -c docs . build/docs
	@echo "open build/docs/index.html"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist rejuvenet.egg-info docs/api docs/command_line.md docs/modules.rst $(DEMO)
