#!/bin/sh
# A scripted agent that answers in threads: it does what the message that asks it says in lines that begin with "$ ".

hold() { while [ ! -e "$DESK/gates/$1" ]; do sleep 0.02; done; }

# Add to the answer, as any program can.
say() { printf '%s' "$*" >> "$AGENTQ_OUTPUT/answer.md"; }

# Write the decision: what, why, and perhaps a description.
decide() {
	description=${3:+", \"description\": \"$3\""}
	printf '{"decision": "%s", "why": "%s"%s}' "$1" "$2" "$description" > "$AGENTQ_OUTPUT/decision.json"
}

echo "$AGENTQ_TASK_ID $AGENTQ_ATTEMPT started" >> "$DESK/notes"
cat > "$DESK/prompts/$AGENTQ_TASK_ID.$AGENTQ_ATTEMPT"
sed -n '/this message asks you$/,$ s/^> \$ //p' "$DESK/prompts/$AGENTQ_TASK_ID.$AGENTQ_ATTEMPT" > "$AGENTQ_OUTPUT/../steps"
. "$AGENTQ_OUTPUT/../steps"
