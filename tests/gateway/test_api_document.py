"""What docs/gateway.md shows of the API is true."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from agentq.gateway.problems import TITLES
from tests.gateway.serving import Served
from tests.test_documents import ROOT, blocks

DOCUMENT = ROOT / "docs" / "gateway.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_requests_that_are_shown_succeed(served: Served, tmp_path: Path) -> None:
    token = served.new_token("coordinator", "approver")
    lines = [line for block in blocks(DOCUMENT, "console") for line in block.splitlines()]

    for line in lines:
        assert line.startswith("$ curl ")
        done = subprocess.run(
            ["sh", "-c", line.removeprefix("$ ")],
            env={"PATH": os.environ["PATH"], "GATEWAY": served.url, "TOKEN": token},
            cwd=tmp_path,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, (line, done)
        assert done.stdout, line
    assert len(lines) >= 10


def test_every_frame_that_is_shown_is_json() -> None:
    for block in blocks(DOCUMENT, "json"):
        for line in block.splitlines():
            assert json.loads(line)["op"]


def test_every_status_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [status for status in TITLES if str(status) not in text and status != 500] == []


@pytest.mark.promise("gateway-documented")
def test_the_document_is_valid_and_describes_what_is_answered(served: Served) -> None:
    served.desk.finish(served.desk.task("--id", "fix-17"))
    document = served.get("/openapi.json").ok()
    validate(document)
    seen = 0

    for path, operations in document["paths"].items():
        answers = operations.get("get", {}).get("responses", {})
        reply = served.get(path.replace("{task_id}", "fix-17").replace("{name}", "nothing"))
        described = answers.get(str(reply.status), {}).get("content", {}).get(reply.headers.get("content-type", ""))
        if described:
            seen += 1
            schema = {**described["schema"], "components": document["components"]}
            OAS31Validator(schema).validate(reply.json)
        else:
            assert reply.status == 405 or path in ("/metrics",), (path, reply)
    assert seen > 15
