#!/bin/sh
# The scripted agent of these tests: it does what those lines of its prompt say that begin with "$ ".
# It notes its start, and an overlap when another agent of its task, or a child of one, is still there.

note() { echo "$AGENTQ_TASK_ID $AGENTQ_ATTEMPT $*" >> "$DESK/notes"; }

# Wait until the test opens a gate.
hold() { while [ ! -e "$DESK/gates/$1" ]; do sleep 0.02; done; }

report() { echo "$*" > "$AGENTQ_OUTPUT/report.md"; }

cat > "$DESK/prompts/$AGENTQ_TASK_ID.$AGENTQ_ATTEMPT"
exec 9> "$DESK/$AGENTQ_TASK_ID.lock"
flock -n 9 || note overlap
note started $$
sed -n 's/^\$ //p' "$DESK/prompts/$AGENTQ_TASK_ID.$AGENTQ_ATTEMPT" > "$AGENTQ_OUTPUT/../steps"
. "$AGENTQ_OUTPUT/../steps"
