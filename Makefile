# What a checkout can do; every target sets up what it needs. `make help` lists them.
#
#   PYTHON=python3.13      the Python to make .venv with (3.11 or later)
#   WORKERS=1              run tests one after the other, not side by side
#   PYTEST_ARGS="-k plan"  more arguments for pytest
#   FULL_ARGS="chaos"      which parts of test-full (tests chaos haproxy engines pythons)
#   ENGINES="podman-5"     the engines of test-engines (docker-26 docker-28 docker-28-containerd podman-5)
#   CHAOS_ARGS="--kills 60"  arguments for chaos (--kills, --seed, --projects)
#   BENCH_ARGS=--quick     arguments for the benchmarks (--quick, --only NAME, --json)
#   DOCKER_HOST=...        the engine to use; without it the default socket's, or one started here

PYTHON ?= python3
WORKERS ?=
PYTEST_ARGS ?=
FULL_ARGS ?=
SELECT ?= -m "not full"
ENGINES ?=
BENCH_ARGS ?=
CHAOS_ARGS ?=
RUN := .venv/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help check test test-full test-engines chaos demo venv engine engine-stop image tools schema reference probe bench house lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

check: lint  ## ruff, mypy and every test that needs neither an engine nor HAProxy
	@$(RUN) -m pytest -q -m "not engine and not haproxy" --hypothesis-profile=quick -n $(or $(WORKERS),3) $(PYTEST_ARGS)

# Tests on an engine mostly wait for it: more of them side by side than there are processors.
test: lint engine image tools  ## that, and the tests on a real engine, with the coverage floors
	@rm -rf .cache/coverage .cache/junit.xml && mkdir -p .cache/coverage
	@$(RUN) -m coverage run -m pytest --junitxml=.cache/junit.xml $(SELECT) -n $(or $(WORKERS),4) $(PYTEST_ARGS) \
		|| $(RUN) -m scripts.again .cache/junit.xml $$?
	@$(RUN) -m coverage combine --quiet
	@$(RUN) -m coverage report
	@$(RUN) -m scripts.floors .cache/junit.xml

test-full: venv engine image tools  ## everything there is: slow tests, chaos, a newer HAProxy, newer engines, other Pythons; says which ran
	@WORKERS=$(or $(WORKERS),1) $(RUN) -m scripts.full $(FULL_ARGS)

test-engines: venv engine image tools  ## the engine tests on newer engines, from newer Debian's packages; as root
	@$(RUN) -m scripts.engines $(ENGINES) -- $(PYTEST_ARGS)

chaos: venv engine image  ## kill commands at random moments, many times, and see that nothing is left
	@$(RUN) -m tests.engine.kills $(CHAOS_ARGS)

demo: venv engine image  ## the main job on real input: three agents, evidence, nothing left behind
	@$(RUN) examples/demo/demo.py

venv: .venv/.installed  ## .venv with the package and its test extras

.venv/.installed: pyproject.toml scripts/venv.py
	@$(PYTHON) -m scripts.venv
	@touch $@

engine: venv  ## see that an engine answers; start one where none does
	@$(RUN) -m scripts.engine start

engine-stop:  ## stop the engine that `make engine` started, and no other
	@$(PYTHON) -m scripts.engine stop

image: engine  ## the base images, from the system's packages, where the engine lacks them
	@$(RUN) -m scripts.image

tools: venv  # programs that only tests need
	@$(RUN) -m scripts.system docker-registry
	@$(RUN) -m scripts.haproxy

schema: venv  ## write schemas/sandbox.schema.json anew from the model's rows
	@mkdir -p .cache
	@$(RUN) -m sandboxrun schema >.cache/schema.json && mv .cache/schema.json schemas/sandbox.schema.json

reference: venv  ## write docs/reference.md, docs/seccomp.md and the controls of docs/verify.md anew
	@$(RUN) -m scripts.reference
	@$(RUN) -m scripts.seccomp
	@$(RUN) -m scripts.controls
	@$(RUN) -m scripts.rules

probe: venv  ## build the probe and the init again from their C source
	@$(RUN) -m scripts.probe

bench: venv engine image  ## the benchmarks, as ratios side by side in one run
	@$(RUN) -m benchmarks $(BENCH_ARGS)

house: venv engine image  ## the house in figures: lines, complexity, imports, what a run enters
	@$(RUN) -m scripts.house --run

lint: venv  ## ruff and mypy
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m mypy --no-error-summary

clean:  ## stop the engine started here and remove what was built; installed packages stay
	@$(PYTHON) -m scripts.engine clean
	rm -rf .venv .cache .pytest_cache .hypothesis .mypy_cache .ruff_cache .coverage .coverage.* build dist
