# Two commands: `make demo` and `make test`. `make test-all` is what comes on top: all that a broker has a part in on
# the oldest RabbitMQ of this machine, what every engine does over a gateway before RabbitMQ, races of many workers and
# of bridges, chats with their bridges and gateways that are killed, as real processes, longer searches for an order of
# steps that breaks a promise, Prometheus's own tool and systemd over what they are to read, LangGraph's checkpointers
# over PostgreSQL, Claude Code and Codex as agents against a stub of their models, the gateway's page in Chromium,
# Schemathesis over its API, and a short search for breaking input. `make test-agents` runs every agent's tool that
# agentq knows.
# Everything lives in .venv; what the machine lacks comes by its own packages.
BIN := .venv/bin
# `make demo AGENT=claude` runs the demo with a tool of yours. Said here: some agents set such a variable for what they run.
AGENT :=
# Where Python may not keep what it compiled, each of the thousands of processes that the tests start compiles all anew.
unexport PYTHONDONTWRITEBYTECODE
RACES := tests/daemons/test_endurance.py tests/daemons/test_notices_endurance.py
CHATS := $(addprefix tests/daemons/test_,bridge.py chat_example.py chat_jobs.py)
GATEWAYS := tests/daemons/test_via_faults.py $(addprefix tests/gateway/test_,gateways.py store_kills.py)
# What happens inside an attempt, or before a gateway, is the same on every broker.
SAME := $(patsubst %,--ignore tests/daemons/test_%.py,via answers threads agents budgets going_on mcp quotas side_effects \
	signed_tasks tools what_agents_see workspaces)
APART := $(addprefix --ignore ,$(RACES) $(CHATS) $(GATEWAYS))
SEARCHES := -k "order or never or exactly_once or acknowledged_holds or missed_or" $(addprefix tests/,test_moving.py \
	test_interleavings.py test_turns.py integrations/test_notices.py threads/test_interleavings.py gateway/test_hub.py)
AGENT_TESTS := $(addprefix tests/agents/,runs.py daemons.py answers.py checks.py mcp.py demo.py showcase.py)

.PHONY: demo test test-all test-long test-agents test-systemd bench fuzz check clean

demo: .venv/demo
	$(BIN)/agentq demo $(if $(AGENT),--agent '$(AGENT)')

test: .venv/test
	tests/brokers/install.sh
	$(MAKE) check
	$(BIN)/pytest -n 3 --dist loadfile $(APART)

test-all: .venv/test
	tests/brokers/install.sh
	TEST_BROKER=oldest $(BIN)/pytest -n 3 --dist loadfile -k "rabbitmq or brokers or roles or access or privilege" \
		$(addprefix tests/,conformance daemons $(addprefix test_,rabbitmq_engine.py rabbitmq_log.py brokers.py roles.py \
		access.py cli.py controls.py plan_cli.py pulling.py dlq.py doctor.py)) $(APART) $(SAME)
	TEST_GATEWAY=rabbitmq $(BIN)/pytest -n 3 --dist loadfile -k gateway-rabbitmq tests/conformance
	$(BIN)/pytest -n 2 --dist load $(RACES)
	$(BIN)/pytest -n 3 --dist load $(CHATS)
	$(BIN)/pytest -n 2 --dist load $(GATEWAYS)
	INTERLEAVINGS=300 $(BIN)/pytest -n 3 --dist load $(SEARCHES)
	tests/monitoring/install.sh
	$(BIN)/pytest tests/monitoring
	tests/systemd/install.sh
	$(BIN)/pytest tests/systemd -k "complain or exposed"
	tests/chat/install.sh
	TEST_POSTGRES=1 $(BIN)/pytest -k postgres tests/integrations/test_langgraph_threads.py
	tests/agents/install.sh claude codex
	TEST_AGENTS=claude,codex $(BIN)/pytest -n 2 $(AGENT_TESTS)
	tests/browser/install.sh
	$(BIN)/pip install -q --group browser
	$(BIN)/pytest tests/browser
	$(BIN)/pip install -q --group schemas
	$(BIN)/pytest tests/gateway/schemas.py
	$(MAKE) fuzz SECONDS=5

# Not part of the others for its length alone: much longer searches.
test-long: .venv/test
	INTERLEAVINGS=3000 $(BIN)/pytest -n 3 --dist load $(SEARCHES)

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
	tests/browser/install.sh
	$(BIN)/pip install -q --group bench --group browser
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
