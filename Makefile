# make demo    train a small network until it groks, and write a report to look at
# make test    everything that must stay green: lint, types, doctests, tests, notebooks
# make lab     JupyterLab on the notebooks
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo install test test-slow test-lowest test-newest soak audit lint types pytest notebooks benchmark lab clean

demo: $(VENV)/.installed
	$(BIN)/interp demo

test: lint types pytest notebooks

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

pytest: $(VENV)/.installed-test
	$(BIN)/pytest -m "not slow"

# The notebooks run at toy scale (INTERP_NOTEBOOK_SCALE=full for the real thing) in a folder of their own.
notebooks: $(VENV)/.installed-test
	INTERP_NOTEBOOK_SCALE=toy $(BIN)/pytest --nbmake --nbmake-timeout=300 notebooks/*.ipynb

test-slow: $(VENV)/.installed-test
	$(BIN)/pytest -m slow

# The attacks of tests/soak at full length: hours. INTERP_SOAK_SEED=N repeats one.
soak: $(VENV)/.installed-test
	INTERP_SOAK=1 $(BIN)/pytest -s --durations=0 tests/soak

# Smoke runs in environments of their own, with the lowest declared versions and on the newest Python that is here.
# On Linux torch is downloaded as its CUDA build, 3 GB; TORCH=VERSION takes another, such as one whose wheel is at hand.
test-lowest:
	tests/versions/try.sh lowest

test-newest:
	tests/versions/try.sh newest

# Known vulnerabilities of the tested installation.
AUDIT ?= constraints.txt
audit:
	$(PYTHON) -m venv $(VENV)-audit
	PIP_CONSTRAINT= $(VENV)-audit/bin/pip install --quiet pip-audit || \
		{ echo "audit: not done, pip-audit cannot be installed without a network"; exit 1; }
	$(VENV)-audit/bin/pip-audit --strict --progress-spinner off --no-deps --disable-pip --requirement $(AUDIT) || \
		{ echo "audit: not passed; the lines above name vulnerable versions, or what could not be looked up here"; exit 1; }

benchmark: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks

lab: $(VENV)/.installed-test
	$(BIN)/jupyter lab notebooks

install: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-audit .pytest_cache .mypy_cache .ruff_cache .hypothesis
