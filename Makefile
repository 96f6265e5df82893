# Two commands: `make demo` and `make test`. `make test-all` is what comes on top: the daemons and the CLI on the oldest
# RabbitMQ of this machine, races of many workers and of bridges, chats with their bridges as real processes, Prometheus's
# own tool and systemd over what they are to read, LangGraph's checkpointers over PostgreSQL, Claude Code and Codex as agents
# against a stub of their models, and a short search for breaking input. `make test-agents` runs every agent's tool that
# agentq knows.
# Everything lives in .venv; what the machine lacks comes by its own packages.
BIN := .venv/bin
# `make demo AGENT=claude` runs the demo with a tool of yours. Said here: some agents set such a variable for what they run.
AGENT :=
RACES := tests/daemons/test_endurance.py tests/daemons/test_notices_endurance.py
CHATS := $(addprefix tests/daemons/test_,bridge.py chat_example.py chat_jobs.py)
AGENT_TESTS := $(addprefix tests/agents/,runs.py daemons.py checks.py mcp.py demo.py showcase.py)

.PHONY: demo test test-all test-agents test-systemd bench fuzz check clean

demo: .venv/demo
	$(BIN)/agentq demo $(if $(AGENT),--agent '$(AGENT)')

test: .venv/test
	tests/brokers/install.sh
	$(MAKE) check
	$(BIN)/pytest -n 3 --dist loadfile $(addprefix --ignore ,$(RACES) $(CHATS))

test-all: .venv/test
	tests/brokers/install.sh
	TEST_BROKER=oldest $(BIN)/pytest -n 3 --dist loadfile -k rabbitmq tests/daemons tests/test_cli.py \
		tests/test_controls.py tests/test_plan_cli.py tests/test_pulling.py tests/test_dlq.py tests/test_doctor.py
	$(BIN)/pytest -n 2 --dist load $(RACES)
	$(BIN)/pytest -n 3 --dist load $(CHATS)
	tests/monitoring/install.sh
	$(BIN)/pytest tests/monitoring
	tests/systemd/install.sh
	$(BIN)/pytest tests/systemd -k "complain or exposed"
	tests/chat/install.sh
	TEST_POSTGRES=1 $(BIN)/pytest -k postgres tests/integrations/test_langgraph_threads.py
	tests/agents/install.sh claude codex
	TEST_AGENTS=claude,codex $(BIN)/pytest -n 2 $(AGENT_TESTS)
	$(MAKE) fuzz SECONDS=5

test-agents: .venv/test
	tests/brokers/install.sh
	tests/agents/install.sh claude codex gemini qwen opencode
	$(BIN)/pytest -n 2 $(AGENT_TESTS)

# The unit run by a manager of systemd's own, in namespaces and a control group made for it: as root, or by sudo, and from
# a checkout and a home outside /tmp.
test-systemd: .venv/test
	tests/systemd/install.sh
	$(BIN)/pytest tests/systemd

bench: .venv/test
	tests/brokers/install.sh
	$(BIN)/pip install -q --group bench
	$(BIN)/python -m tests.benchmarks

# Every target that is fed with messages, papers, profiles, settings and plans, SECONDS each, led by coverage. What
# fails is written to a file here: `python -m tests.fuzz FILE TARGET` feeds it again.
SECONDS ?= 60
fuzz: .venv/test
	$(BIN)/pip install -q --group fuzz
	$(BIN)/python -m tests.fuzz $(SECONDS)

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
