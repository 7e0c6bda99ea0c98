# make demo: install into .venv and run the main job.  make test: install into .venv and run the everyday checks.
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
INSTALLED := $(VENV)/.installed
DEMO := results/demo

.PHONY: demo test clean

demo: $(INSTALLED)
	$(VENV)/bin/dipsearch search --task inpaint --out $(DEMO) $(if $(wildcard $(DEMO)/studies/inpaint-dip-quick/study.db),--resume)
	$(VENV)/bin/dipsearch rerun --task inpaint --top 3 --seeds 3 --out $(DEMO)
	$(VENV)/bin/dipsearch report --out $(DEMO)

test: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pytest -n logical --dist worksteal -m "not slow"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "dipsearch needs Python 3.11 or later; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) dist
