# Every target sets up the environment it needs; none needs another command before it.

PYTHON ?= python3
PIP_FLAGS = --quiet --disable-pip-version-check

DEMO = .venv/.installed
DEV = .venv-dev/.installed
IN_DEV = .venv-dev/bin

.PHONY: demo test check fix bench bench-peers bench-full bench-queue bench-server fuzz-server load-server bench-export demo-model demo-bundle clean

demo: $(DEMO)            ## inpaint a real photo with the embedded model
	.venv/bin/python examples/demo.py

test: $(DEV)             ## every test that needs no GPU
	$(IN_DEV)/python -m pytest -m "not gpu" -n auto --dist worksteal $(PYTEST_FLAGS)

check: $(DEV)            ## lint, types, import rules
	$(IN_DEV)/ruff check .
	$(IN_DEV)/ruff format --check .
	MYPYPATH=.venv-dev/typing:tests/support/stubs $(IN_DEV)/mypy -p lightfill
	$(IN_DEV)/lint-imports

fix: $(DEV)              ## apply the formatter and safe lint fixes
	$(IN_DEV)/ruff format .
	$(IN_DEV)/ruff check --fix .

bench: $(DEV)            ## latency, growth and host overhead of the embedded model (minutes)
	$(IN_DEV)/python -m lightfill.bench.suite demo

bench-peers: $(DEV)      ## the embedded model against peers, each in an environment of its own (GBs)
	$(IN_DEV)/python -m lightfill.bench.suite demo-peers

bench-full: $(DEV)       ## SDXL at full size, synthetic weights, with peers (hours, tens of GB of disk)
	$(IN_DEV)/python -m lightfill.bench.suite sdxl

bench-queue: $(DEV)      ## the job queue alone: submits and statuses a second, on this disk
	$(IN_DEV)/python -m lightfill.bench.queue_throughput

bench-server: $(DEV)     ## what HTTP and the queue cost around jobs that do nothing
	$(IN_DEV)/python -m lightfill.bench.server_overhead

fuzz-server: $(DEV)      ## more than 20,000 requests against the server's OpenAPI document
	TESTS_FUZZ_EXAMPLES=1500 $(IN_DEV)/python -m pytest -s tests/engine/server/test_openapi_fuzz.py

load-server: $(DEV)      ## 100 clients at once with 20 requests each, some of whom leave
	TESTS_LOAD_EACH=20 $(IN_DEV)/python -m pytest -s tests/engine/server/test_load.py

bench-export: $(DEV)     ## SDXL at full size: exported and run on this CPU (20 minutes and more)
	$(IN_DEV)/python -m lightfill.bench.full_size --write

demo-model: $(DEV)       ## train the embedded model anew (hours; stop it at any time, it goes on)
	$(IN_DEV)/python -m lightfill.export.demo.train

demo-bundle: $(DEV)      ## export the embedded model again from its checkpoint
	$(IN_DEV)/python -m lightfill.export.demo_bundle

clean:
	rm -rf .venv .venv-dev out build *.egg-info tests/clients/node_modules

# The demo's environment has no torch: what a user of the library installs, and nothing else.
$(DEMO): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lightfill needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install $(PIP_FLAGS) -e '.[cpu]'
	@touch $@

# mypy is shown the package under its own name, whatever the checkout's directory is called.
# fal's JavaScript clients are for the tests only, which are skipped without npm.
$(DEV): pyproject.toml constraints.txt tests/clients/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lightfill needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	mkdir -p .venv-dev/typing && ln -sfn ../.. .venv-dev/typing/lightfill
	@if command -v npm >/dev/null; then npm ci --silent --prefix tests/clients; fi
	@touch $@
