# All targets make their own environment in .venv; nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo

.PHONY: demo test lint docs install clean

demo: $(VENV)/.installed
	$(VENV)/bin/python -m rejuvenet demo --output $(DEMO)

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q $(PYTEST)

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
