"""The MCP server: a coordinator's tools for agents that speak the Model Context Protocol."""
