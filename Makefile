# Two commands: `make demo` and `make test`. Everything lives in .venv; what the machine lacks comes by its own packages.
BIN := .venv/bin

.PHONY: demo test test-all bench check clean

demo: .venv/demo
	$(BIN)/agentq demo

test: .venv/test
	tests/brokers/install.sh
	$(MAKE) check
	$(BIN)/pytest -n 3 --dist loadfile

test-all: test

bench: .venv/test
	tests/brokers/install.sh
	$(BIN)/pip install -q --group bench
	$(BIN)/python -m tests.benchmarks

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/demo: pyproject.toml
	.ci/setup
	touch $@

.venv/test: pyproject.toml
	.ci/setup dev
	touch $@ .venv/demo

clean:
	rm -rf .venv .build
