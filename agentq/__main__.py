"""`python -m agentq`."""

from agentq.cli import main

main()
