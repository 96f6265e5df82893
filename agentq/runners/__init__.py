"""The runners: one module per way of starting an agent, each behind `agentq.runner.Runner`."""
