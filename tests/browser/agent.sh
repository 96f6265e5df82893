#!/bin/sh
# The scripted agent of these tests: it does what the test wrote for it to $DESK/scripts/<agent>, of a later attempt to
# $DESK/scripts/<agent>.<attempt> where there is one.

# Write on at the answer, as it is.
say() { printf '%s' "$*" >> "$AGENTQ_OUTPUT/answer.md"; }

# Wait until the test opens a gate, or for whatever opens all of them.
hold() { while [ ! -e "$DESK/gates/$1" ] && [ ! -e "$DESK/gates/end" ]; do sleep 0.02; done; }

# Say what was decided, as JSON.
decide() { printf '%s' "$1" > "$AGENTQ_OUTPUT/decision.json"; }

mkdir -p "$DESK/prompts"
cat > "$DESK/prompts/$AGENTQ_TASK_ID.$AGENTQ_ATTEMPT"
script=$DESK/scripts/$(basename "$AGENT_NAME")
if [ -e "$script.$AGENTQ_ATTEMPT" ]; then script=$script.$AGENTQ_ATTEMPT; fi
. "$script"
