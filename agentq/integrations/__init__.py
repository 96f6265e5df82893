"""agentq inside other programs: chat agents over LangGraph, and any client of the Model Context Protocol."""
