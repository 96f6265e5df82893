"""What makes a request harmless to repeat: an id, or a key that stands for one."""

import json
from collections.abc import Callable

from agentq.errors import Conflict, Invalid
from agentq.gateway.operations import Call
from agentq.messages import sha256_hex

IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Whoever repeats a request with it gets what the first one made, not another. An `id` in the body"
    " counts instead of it, and is refused (409) when the key has made something else already.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"},
}


def id_of(call: Call, prefix: str, given: str | None, find: Callable[[str], object]) -> str | None:
    """The id of what is to be made: the one given, else what the key of whoever asks stands for, in a thread if it is
    about one; None without either. `find` looks, and may block, for what the key has made.

    Raises Invalid for a key that is none, Conflict for one that has made something else than the id says.
    """
    key = call.request.headers.get("idempotency-key")
    if key is None:
        return given
    if not 0 < len(key) <= 256 or not key.isprintable():
        raise Invalid("Idempotency-Key is none", hint="Up to 256 characters, such as a UUID.")
    said = json.dumps([call.grant.name, call.path.get("thread_id"), key])
    keyed = f"{prefix}-{sha256_hex(said.encode())[:32]}"
    if given not in (None, keyed) and find(keyed):
        raise Conflict(
            f"this Idempotency-Key has made {keyed} already, and the id says {given}",
            hint="Leave out the id to repeat that request, or bring a new key.",
        )
    return given or keyed
