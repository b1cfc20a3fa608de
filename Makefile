# Thin on purpose: each target is one command that can be typed by hand.
PY = .venv/bin/python
# One BLAS thread a process: the chains already run side by side, and more would only fight.
TEST_ENV = OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 MPLBACKEND=Agg

.NOTPARALLEL:
.PHONY: help demo test lint types layers unit notebooks docs peers bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

.venv/.installed: pyproject.toml scripts/make-env
	scripts/make-env

demo: .venv/.installed ## fit the example; options in ARGS="..."
	$(PY) -m pm_gplvm demo $(ARGS)

test: lint types layers unit docs notebooks ## everything a change must pass, in this order

lint: .venv/.installed ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: .venv/.installed ## mypy, strict
	$(PY) -m mypy

layers: .venv/.installed ## imports between modules point down only
	.venv/bin/lint-imports

unit: .venv/.installed ## pytest, a process for each core; options in ARGS="..."
	$(TEST_ENV) $(PY) -m pytest -n auto --dist loadfile $(ARGS)

# -qq leaves out pytest's closing line, so the one of `unit` is the last in a log of `make test`.
notebooks: .venv/.installed ## run the notebooks, cut short
	@set -- notebooks/*.ipynb; \
	if [ ! -e "$$1" ]; then echo "no notebooks to run"; exit 0; fi; \
	echo "running $$*"; \
	$(TEST_ENV) PM_GPLVM_SHORT=1 $(PY) -m pytest -qq -n auto -o addopts= --nbmake "$$@" \
	&& echo "notebooks ran without an error"

# Everything is read and run anew: an example must work with the package as it is.
docs: .venv/.installed ## the site, docs/_build/html/index.html: examples run, links checked
	rm -rf docs/_build docs/gallery
	$(TEST_ENV) $(PY) -m sphinx -q -W --keep-going -j auto docs docs/_build/html
	$(PY) scripts/check-site docs/_build/html
	$(TEST_ENV) $(PY) -m pytest -qq -o addopts= tests/built_site.py

peers: .venv/.installed ## the other libraries that the benchmarks compare with
	$(PY) -m benchmarks peers

bench: .venv/.installed ## all benchmarks; one of them by BENCH="converge --cap 120"
	$(PY) -m benchmarks $(or $(BENCH),all)

clean: ## remove build products and caches; .venv stays
	rm -rf docs/_build docs/api docs/api.rst docs/gallery docs/notebooks/*.ipynb docs/examples/*/*.html docs/sg_* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find pm_gplvm tests notebooks benchmarks -path benchmarks/.peers -prune -o -name __pycache__ -o -name .ipynb_checkpoints \
	2>/dev/null | xargs rm -rf
