# Every target prepares what it needs. A second call installs nothing.

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH_INSTALLED := .venv/.bench-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# PYTHON names another Python than that of .venv: what is in it cannot stay.
ifneq ($(PYTHON),)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell $(BIN)/python -V 2>&1))
ANEW := anew
endif
endif

# Spark finds its JVM by JAVA_HOME, Airflow finds spark-submit on PATH.
RUN = home=$$(.ci/java) && JAVA_HOME="$$home" PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help install demo test chaos check bench bench-locks clean anew

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv by constraints.txt; PYTHON=python3.12 chooses, here as below

demo: $(INSTALLED) ## run the whole way of the data once, on this machine
	@$(RUN) $(BIN)/python -m demo

# Tests wait for servers more than they compute, hence two files at a time. NEXUS_TEST_SERVER names
# another kind of servers (tests/kinds.py): `NEXUS_TEST_SERVER=tls make test`.
test: $(INSTALLED) ## run the tests; ARGS="-k lock" passes options to pytest, "-n 0" one at a time
	@tools=$$(.ci/deploy-tools) && $(RUN):"$$tools" $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

chaos: $(INSTALLED) ## prove what is promised by faults; ONLY=sentinel, SEED=7, FAULTS=100 choose
	@$(BIN)/python -m tests.chaos

check: $(INSTALLED) ## lint, format, types, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## run the benchmarks of publishing
	@$(RUN) $(BIN)/python -m tests.benchmarks.gold

bench-locks: $(BENCH_INSTALLED) ## run the benchmarks of locks, beside other libraries
	@$(BIN)/python -m tests.benchmarks.locks

clean: ## remove .venv, caches and build output
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist *.egg-info metastore_db spark-warehouse derby.log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The Spark provider of Airflow depends on pyspark-client, which installs other versions of the
# same files over those of pyspark. It goes last and without its dependencies: what spark-submit
# needs of them came with Airflow.
$(INSTALLED): pyproject.toml constraints.txt $(ANEW)
	@python=$$(.ci/python) && echo "venv: $$($$python --version)" && \
		$$python -m venv $(if $(ANEW),--clear) .venv
	@echo "pip: $$(sed -n 's/^pip==//p' constraints.txt)"
	@$(PIP) install -qq --upgrade -c constraints.txt pip
	@echo "packages: Airflow, Spark and tools; some minutes the first time"
	@$(PIP) install -qq -c constraints.txt -e '.[airflow,spark,cli,embedded,hiredis]' --group dev
	@echo "packages: Airflow's Spark provider"
	@$(PIP) install -qq --no-deps -c constraints.txt apache-airflow-providers-apache-spark
	@touch $@

# Locks of other libraries, for their benchmark alone.
$(BENCH_INSTALLED): $(INSTALLED)
	@echo "packages: locks to compare with"
	@$(PIP) install -qq -c constraints.txt --group bench
	@touch $@
