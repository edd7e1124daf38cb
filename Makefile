# Development tasks. Needs GNU make, a POSIX sh and Python 3.11 or newer; the rest goes into .venv.
#
#   make demo                                  try vidproc
#   make test PYTHON=python3.12 VENV=/tmp/v    use another Python and environment

SHELL = /bin/sh
VENV ?= .venv
# If empty, the first of these that works and is new enough.
PYTHON ?=
PYTHONS = python3.13 python3.12 python3.11 python3

TESTS ?= tests
# Parallel test processes; empty for a single process, as a debugger needs. One more than there are
# cores, since some tests wait for timeouts most of the time.
TEST_JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1) + 1)))
TRIAL_OPTIONS ?=
SERVE_OPTIONS ?=
BENCHES ?= transfer http_transfer latency memory overhead first_second reserve parallel mixed resume streams
BENCH_OPTIONS ?= --quick
SOAK_MINUTES ?= 15
# The tested versions. /dev/null installs the newest ones that setup.cfg allows.
CONSTRAINTS ?= constraints.txt

BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# Before the name of a group of setup.cfg's extras that only some targets need.
EXTRA = $(VENV)/.installed-
NEW_ENOUGH = import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))

# An environment contains the absolute path of its checkout: reinstall if either has moved.
ifneq ($(shell cat '$(STAMP)' 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help setup venv demo serve docs dist sbom test test-api test-cluster cluster-certs cluster-demo test-page page-pictures coverage bench lint format matrix soak constraints clean

help:
	@echo 'make demo     run all six operations on a real clip; results in demo-output/'
	@echo 'make cluster-demo  one long film on a cluster, of which one worker is killed'
	@echo 'make serve    run the service in the foreground (SERVE_OPTIONS="--port 9998")'
	@echo 'make test     run all tests (some of them: TESTS=tests.test_codec)'
	@echo 'make test-api  send made-up requests to the HTTP API, by its own description'
	@echo 'make test-cluster  test a cluster of real processes (CLUSTER_TESTS=tests_cluster.test_x)'
	@echo 'make cluster-certs  make certificates for trying a cluster with TLS, in cluster-certs/'
	@echo 'make test-page  test the page in Chromium (some: PAGE_TESTS=tests_page.test_work)'
	@echo 'make bench    run the quick benchmarks (one of them: BENCHES=transfer)'
	@echo 'make coverage run all tests and print line and branch coverage'
	@echo 'make lint     check style and types'
	@echo 'make format   format the code'
	@echo 'make docs     build the documentation site in site/; checks its links'
	@echo 'make dist     build wheel, sdist and SBOM into dist/, and check them in a new environment'
	@echo 'make matrix   process all clips with all operations, and check each result in detail'
	@echo 'make soak     break things at random for SOAK_MINUTES (15) and check that nothing is lost'
	@echo 'make setup    create the environment ($(VENV)) that the others use'
	@echo 'make constraints  update constraints.txt to the newest versions that setup.cfg allows'
	@echo 'make clean    remove the environment, caches and demo results'

setup venv: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@set -e; \
	if ! '$(BIN)/python' -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	    found=; \
	    for python in $(if $(PYTHON),'$(PYTHON)',$(PYTHONS)); do \
	        if "$$python" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo 'vidproc needs Python 3.11 or newer with its venv module; none of' \
	            '$(if $(PYTHON),$(PYTHON),$(PYTHONS)) is.' >&2; \
	        echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv)' \
	            'or name one: make PYTHON=/path/to/python3' >&2; \
	        exit 1; \
	    fi; \
	    echo "Creating $(VENV) with $$("$$found" --version)"; \
	    "$$found" -m venv --clear '$(VENV)'; \
	fi; \
	rm -f '$(STAMP)'; \
	echo 'Installing vidproc and its dependencies'; \
	'$(BIN)/python' -m pip install --quiet --disable-pip-version-check \
	    --constraint '$(CONSTRAINTS)' -e '.[dev]'; \
	'$(BIN)/python' -c 'from twisted.plugin import IPlugin, getPlugins; list(getPlugins(IPlugin))'; \
	echo '$(CURDIR)' > '$(STAMP)'

$(EXTRA)%: $(STAMP)
	@echo 'Installing what .[$*] adds'
	@'$(BIN)/python' -m pip install --quiet --disable-pip-version-check \
	    --constraint '$(CONSTRAINTS)' -e '.[dev,$*]'
	@touch '$@'

demo: $(STAMP)
	@'$(BIN)/python' scripts/demo.py

cluster-demo: $(STAMP)
	@'$(BIN)/python' scripts/cluster_demo.py

serve: $(STAMP)
	@echo 'The page is at http://localhost:9980/'
	@exec '$(BIN)/twistd' -n vidproc --http 9980 $(SERVE_OPTIONS)

test: $(STAMP)
	HYPOTHESIS_STORAGE_DIRECTORY='$(VENV)/hypothesis' \
	'$(BIN)/python' -m twisted.trial --temp-directory='$(VENV)/trial' \
	    $(if $(TEST_JOBS),--jobs=$(TEST_JOBS)) $(TRIAL_OPTIONS) $(TESTS)

# A minute of made-up requests; needs the network once, to install schemathesis.
test-api: $(EXTRA)fuzz
	'$(BIN)/python' -m twisted.trial --temp-directory='$(VENV)/trial' tests.api.fuzz_openapi

# Wheel and sdist, checked; the SBOM; the deployment files, linted. Needs the network.
dist: $(EXTRA)dist
	rm -rf build share dist vidproc.egg-info/SOURCES.txt
	'$(BIN)/python' -m support.shell_files share
	'$(BIN)/python' -m build --outdir dist . >dist.log 2>&1 || { tail -n 40 dist.log >&2; exit 1; }
	'$(BIN)/python' -m twine check --strict dist/*.whl dist/*.tar.gz
	'$(BIN)/python' -m support.check_dist dist
	'$(BIN)/hadolint' deploy/container/Containerfile

# The documentation site, in site/. Warnings are errors: a link to nowhere, a page that no one finds.
docs: $(EXTRA)docs
	NO_MKDOCS_2_WARNING=1 '$(BIN)/python' -m mkdocs build --strict --clean --quiet
	@echo 'The documentation is in site/index.html'

# What the wheel brings, as CycloneDX: `make dist` writes it.
sbom: dist
	@ls dist/*.cdx.json

# Chromium is the system's; the rest goes into the environment, where only these tests need it.
PAGE_TESTS ?= tests_page
CHROMIUM ?=
export CHROMIUM
test-page: $(EXTRA)page-tests
	@'$(BIN)/python' -m tests_page.browser
	'$(BIN)/python' -m twisted.trial --temp-directory='$(VENV)/trial-page' $(TRIAL_OPTIONS) $(PAGE_TESTS)

page-pictures: $(EXTRA)page-tests
	@'$(BIN)/python' -m tests_page.browser
	'$(BIN)/python' -m tests_page.pictures

# Real schedulers and workers, and a real S3 server.
CLUSTER_TESTS ?= tests_cluster

test-cluster: $(EXTRA)cluster-tests
	'$(BIN)/python' -m twisted.trial --temp-directory='$(VENV)/trial-cluster' \
	    $(TRIAL_OPTIONS) $(CLUSTER_TESTS)

# A certificate authority and a certificate for trying a cluster with TLS, in cluster-certs/.
cluster-certs: $(STAMP)
	@'$(BIN)/python' scripts/cluster_certs.py

# In one process. Processes that tests start (twistd, the client, the sandbox) are not measured:
# measuring makes a process import more, and some tests check imports.
COVERAGE_FLOOR ?= 91

coverage: $(STAMP)
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; status=0; \
	export COVERAGE_FILE="$$folder/data" HYPOTHESIS_STORAGE_DIRECTORY='$(VENV)/hypothesis'; \
	'$(BIN)/python' -m coverage run -m twisted.trial --temp-directory='$(VENV)/trial' \
	    $(TRIAL_OPTIONS) $(TESTS) || status=1; \
	'$(BIN)/python' -m coverage report --fail-under=$(COVERAGE_FLOOR) || status=1; \
	exit $$status

# All of them, even if one fails. See docs/performance.md.
bench: $(STAMP)
	@status=0; for name in $(BENCHES); do \
	    echo "== $$name"; \
	    '$(BIN)/python' -m benchmarks.$$name $(BENCH_OPTIONS) || status=1; \
	done; exit $$status

# All three, even if one fails.
lint: $(STAMP)
	@status=0; set -x; \
	'$(BIN)/python' -m ruff check . || status=1; \
	'$(BIN)/python' -m ruff format --check . || status=1; \
	'$(BIN)/python' -m mypy || status=1; \
	exit $$status

format: $(STAMP)
	'$(BIN)/python' -m ruff check --fix .
	'$(BIN)/python' -m ruff format .

# All clips of tests/media and ../shared/media with all operations: minutes on a quiet machine.
MATRIX_OPTIONS ?= --markdown matrix.md

matrix: $(STAMP)
	'$(BIN)/python' -m benchmarks.matrix $(MATRIX_OPTIONS)

soak: $(STAMP)
	'$(BIN)/python' -m benchmarks.soak --minutes $(SOAK_MINUTES)

# The newest versions that setup.cfg allows, from a separate environment.
constraints:
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	touch "$$folder/none"; \
	$(MAKE) --no-print-directory setup VENV="$$folder/venv" CONSTRAINTS="$$folder/none"; \
	"$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
	    -e '.[bench,cluster,cluster-tests,dist,docs,page-tests]'; \
	{ echo '# The versions that vidproc was tested with. `make constraints` refreshes them.'; \
	  "$$folder/venv/bin/python" -m pip freeze --disable-pip-version-check --exclude-editable; \
	} > "$$folder/constraints"; \
	cp "$$folder/constraints" constraints.txt

clean:
	rm -rf '$(VENV)' demo-output build dist share site dist.log vidproc.egg-info _trial_temp* twisted/plugins/dropin.cache
	rm -rf .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
