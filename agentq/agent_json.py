"""A JSON file that an agent wrote: bounded, of a known shape, and perhaps fenced as models do it in reports."""

import json
import re
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from agentq.errors import Invalid
from agentq.harmless import one_line
from agentq.messages import explain

M = TypeVar("M", bound=BaseModel)
_FENCED = re.compile(r"\A\s*```[a-z]*\n(.*?)\n```\s*\Z", re.DOTALL)


def read_agent_json(data: bytes, model: type[M], *, what: str, limit: int, shape: str) -> M:
    """What the file says; `what` it is, and at most how many bytes.

    Raises Invalid with what is wrong; its hint is the shape that it should have.
    """
    if len(data) > limit:
        raise Invalid(f"the {what} has {len(data)} bytes, {limit} is the limit")
    try:
        text = data.decode()
        fenced = _FENCED.match(text)
        return model.model_validate(json.loads(fenced[1] if fenced else text))
    except ValidationError as error:
        raise Invalid(f"the {what} is not as it should be: {explain(error)}", hint=f"Write {shape}") from error
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the {what} is no JSON in UTF-8: {one_line(str(error))}", hint=f"Write {shape}") from error
