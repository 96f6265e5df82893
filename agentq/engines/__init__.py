"""The engines: one module for each, behind the port in `agentq.engine`."""
