"""Evidence as resources of MCP: what is read, refused, and listed."""

import base64
from typing import Any

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import BlobResourceContents, TextResourceContents

from agentq.integrations.mcp.reading import LISTED, RESOURCE_LIMIT
from tests.desk import Desk
from tests.integrations.mcp_clients import MODES, Talk, over_stdio, submit

BINARY = bytes(range(256))


async def refused(talk: Talk, uri: str) -> tuple[int, str]:
    with pytest.raises(MCPError) as error:
        await talk.client.read_resource(uri)
    assert "\n→ " in error.value.error.message
    return error.value.error.code, error.value.error.message


@pytest.mark.promise("mcp-evidence")
@pytest.mark.parametrize("mode", MODES)
async def test_evidence_is_read_as_text_or_bytes(any_desk: Desk, mode: Any) -> None:
    desk = any_desk
    await submit(desk, "done")
    desk.finish("done", evidence={"notes": "Grüße\n".encode(), "binary": BINARY})
    _retype(desk, "done", binary="application/octet-stream")
    async with over_stdio(desk, mode) as talk:
        about, notes = (await talk.client.read_resource("agentq://tasks/done/artifacts/notes")).contents
        assert isinstance(notes, TextResourceContents)
        assert (notes.text, notes.mime_type) == ("Grüße\n", "text/markdown")
        assert isinstance(about, TextResourceContents)
        assert about.text.startswith("notes by implementation-worker, claimed (an agent's words")
        _, binary = (await talk.client.read_resource("agentq://tasks/done/artifacts/binary")).contents
        assert isinstance(binary, BlobResourceContents)
        assert base64.b64decode(binary.blob) == BINARY
        assert (await talk.client.read_resource("agentq://tasks/done/artifacts/n%6Ftes")).contents[1].text == notes.text  # type: ignore[union-attr]
        (whole,) = (await talk.client.read_resource("agentq://tasks/done/result")).contents
        assert "| All done." in whole.text  # type: ignore[union-attr]
        (envelope,) = (await talk.client.read_resource("agentq://tasks/done/envelope")).contents
        assert '"task_id":"done"' in envelope.text  # type: ignore[union-attr]


@pytest.mark.promise("mcp-evidence")
async def test_altered_evidence_is_refused(desk: Desk) -> None:
    await submit(desk, "done", "gone")
    manifest, gone = desk.finish("done", evidence={"notes": b"true\n"}), desk.finish("gone")
    desk.path_of(manifest, "notes").write_text("lies\n")
    desk.path_of(gone).unlink()
    async with over_stdio(desk) as talk:
        code, said = await refused(talk, "agentq://tasks/done/artifacts/notes")
        assert code == types.INTERNAL_ERROR
        assert "lies" not in said
        for uri in ("agentq://tasks/done/result", "agentq://tasks/gone/result", "agentq://tasks/gone/artifacts/report"):
            assert (await refused(talk, uri))[0] == types.INTERNAL_ERROR
        assert "lies" not in await talk.refused("result", id="done")


async def test_what_is_no_resource_is_refused_with_what_there_is(desk: Desk) -> None:
    await submit(desk, "done", "open")
    manifest = desk.finish("done", evidence={"big": b"x" * (RESOURCE_LIMIT + 1), "fits": b"x" * RESOURCE_LIMIT})
    cases = {
        "agentq://tasks/nope/result": "there is no task nope",
        "agentq://tasks/open/result": "no result yet",
        "agentq://tasks/open/artifacts/report": "no result yet",
        "agentq://tasks/done/artifacts/other": "It has: report, big, fits.",
        "agentq://tasks/done/artifacts/..%2F..%2Fetc%2Fpasswd": "has no artifact",
        "agentq://tasks/../artifacts/report": "is no resource here",
        "agentq://tasks/%2e%2e/result": "is no resource here",
        "agentq://elsewhere": "is no resource here",
        "file:///etc/passwd": "is no resource here",
        "agentq://tasks/done/artifacts/big": str(desk.path_of(manifest, "big")),
    }
    async with over_stdio(desk) as talk:
        for uri, words in cases.items():
            code, said = await refused(talk, uri)
            assert (code, words in said) == (types.INVALID_PARAMS, True), (uri, said)
        _, fits = (await talk.client.read_resource("agentq://tasks/done/artifacts/fits")).contents
        assert len(fits.text) == RESOURCE_LIMIT  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
async def test_the_evidence_of_what_is_unread_is_listed(desk: Desk, mode: Any) -> None:
    async with over_stdio(desk, mode) as talk:
        assert (await talk.client.list_resources(cache_mode="bypass")).resources == []
        await submit(desk, "first", "second")
        desk.finish("first")
        desk.finish("second", evidence={f"piece-{number}": b"x" for number in range(LISTED)})
        listed = (await talk.client.list_resources(cache_mode="bypass")).resources
        assert len(listed) == LISTED
        assert {one.uri.split("/")[3] for one in listed} == {"second"}
        assert (await talk.client.read_resource(str(listed[0].uri))).contents
        await talk.ok("inbox", acknowledge=["second"])
        (one,) = (await talk.client.list_resources(cache_mode="bypass")).resources
        assert (str(one.uri), one.mime_type, one.size) == (
            "agentq://tasks/first/artifacts/report",
            "text/markdown",
            len(b"All done.\n"),
        )
        templates = (await talk.client.list_resource_templates()).resource_templates
        assert [one.uri_template for one in templates] == [
            "agentq://tasks/{id}/artifacts/{name}",
            "agentq://tasks/{id}/result",
            "agentq://tasks/{id}/envelope",
        ]


def _retype(desk: Desk, task_id: str, **types: str) -> None:
    """Say of which media type some pieces are, as another worker would have."""
    import json

    path = desk.shared / "results" / f"{task_id}.json"
    manifest = json.loads(path.read_text())
    for item in manifest["artifacts"]:
        item["media_type"] = types.get(item["name"], item["media_type"])
    path.chmod(0o600)
    path.write_text(json.dumps(manifest))
