"""A writer without a model: it puts the results that its task needs one below the other."""

import re

from agentq.work import Refuse, Work


def write(work: Work) -> str:
    """Write the report from the results that the prompt holds; others' words are marked in it by '>'."""
    work.doing("writing")
    found = dict.fromkeys(re.findall(r"^> .*(On the question .*)$", work.prompt, re.MULTILINE))
    if len(found) < 2:
        raise Refuse(f"it takes the results of two researches, and got {len(found)}")
    return "\n".join(["Report:", *(f"- {line}" for line in found)])
