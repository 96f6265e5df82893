"""Where the server is reached over HTTP, and with which token; told before anything heavy is imported."""

import socket
from dataclasses import dataclass

from agentq.door import is_loopback, listen, place_of, secret
from agentq.errors import Invalid

TOKEN = "AGENTQ_MCP_TOKEN"


@dataclass(frozen=True, slots=True)
class Door:
    """A place to serve at, and the token that whoever comes must bring, None where only this machine can."""

    host: str
    port: int
    token: str | None

    @classmethod
    def at(cls, where: str, token_file: str | None) -> "Door":
        """The door that is asked for; raises Invalid for one that is open to others without a token."""
        host, port = place_of("--http", where, "127.0.0.1:8765")
        token = secret(token_file, TOKEN)
        if token is None and not is_loopback(host):
            raise Invalid(
                f"{host} may be reached by others, and there is no token",
                hint=f"Serve 127.0.0.1, or give --token-file PATH or {TOKEN}.",
            )
        return cls(host, port, token)

    def listen(self) -> socket.socket:
        """A socket that listens there; raises Unavailable when it cannot be had."""
        return listen(self.host, self.port)
