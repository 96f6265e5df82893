"""`agentq mcp --http`: whom it serves, whom it refuses, and how it ends."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.desk import Desk
from tests.integrations.mcp_clients import MODES, PATIENCE, Progress, Served, over_http, submit, until

TASK = {"to": "implementation-worker", "type": "implementation", "instructions": "Do it."}
ACKNOWLEDGED = "acknowledged: fix-17\nnothing unread for coordinator"
TOKEN = "a-token-that-nobody-guesses"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.mark.promise("mcp-round")
@pytest.mark.parametrize("mode", MODES)
async def test_a_task_goes_its_round_over_http(any_desk: Desk, mode: Any) -> None:
    desk = any_desk
    with Served(desk) as served:
        async with over_http(await asyncio.to_thread(lambda: served.url), mode) as talk:
            assert (await talk.ok("submit", **TASK, id="fix-17")).startswith("fix-17 is queued")
            progress = Progress()
            waiting = asyncio.create_task(talk.ok("wait", ids=["fix-17"], seconds=30, progress=progress))
            await asyncio.wait_for(progress.began.wait(), PATIENCE)
            desk.finish("fix-17")
            assert (await waiting).startswith("fix-17 completed  verified")
            assert "| All done." in await talk.ok("result", id="fix-17")
            (_, report) = (await talk.client.read_resource("agentq://tasks/fix-17/artifacts/report")).contents
            assert report.text == "All done.\n"  # type: ignore[union-attr]
            assert await talk.ok("inbox", acknowledge=["fix-17"]) == ACKNOWLEDGED
        served.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(served.process.wait, PATIENCE) == 0
        assert served.stderr.read_text().splitlines()[1:] == []  # no session's id either


async def test_several_clients_are_served_at_once(desk: Desk) -> None:
    await submit(desk, "slow")
    with Served(desk) as served:
        url = await asyncio.to_thread(lambda: served.url)
        async with contextlib.AsyncExitStack() as stack:
            talks = [await stack.enter_async_context(over_http(url, MODES[number % 2])) for number in range(6)]
            waits = [asyncio.create_task(talk.ok("wait", ids=["slow"], seconds=60)) for talk in talks]
            ids = await asyncio.gather(*(talk.ok("submit", **TASK) for talk in talks))
            assert len({said.split()[0] for said in ids}) == 6
            desk.finish("slow")
            assert {said.split()[1] for said in await asyncio.gather(*waits)} == {"completed"}


@pytest.mark.promise("mcp-http")
async def test_only_who_brings_the_token_is_served(desk: Desk) -> None:
    (desk.project / "token").write_text(TOKEN + "\n")
    (desk.project / "token").chmod(0o600)
    with Served(desk, "--token-file", "token") as served:
        url = await asyncio.to_thread(lambda: served.url)
        async with over_http(url, token=TOKEN) as talk:
            assert "is queued" in await talk.ok("submit", **TASK)
        async with httpx2.AsyncClient() as http:
            for given in (
                "",
                "Bearer",
                f"Bearer {TOKEN}x",
                f"Bearer {TOKEN[:-1]}",
                f"Basic {TOKEN}",
                TOKEN,
                "Bearer é",
            ):
                headers = {**ACCEPT, **({"Authorization": given.encode()} if given else {})}
                answer = await http.post(url, json=INITIALIZE, headers=headers)  # type: ignore[arg-type]
                assert answer.status_code == 401, given
                assert "agentq" not in answer.text
            right = {"Authorization": f"bearer {TOKEN}", **ACCEPT}
            assert (await http.post(url, json=INITIALIZE, headers=right)).status_code == 200
        assert TOKEN not in served.stderr.read_text()


@pytest.mark.promise("mcp-http")
async def test_no_foreign_page_and_no_other_name_reaches_it(desk: Desk) -> None:
    with Served(desk, "--allow-host", "build.example") as served:
        url = await asyncio.to_thread(lambda: served.url)
        port = url.split(":")[2].split("/")[0]
        cases = (
            ({"Host": "evil.example"}, 421),
            ({"Host": f"evil.example:{port}"}, 421),
            ({"Host": "127.0.0.1.evil.example"}, 421),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://127.0.0.1:{port}"}, 200),
            ({"Host": f"localhost:{port}"}, 200),
            ({"Host": "build.example"}, 200),
            ({}, 200),
        )
        async with httpx2.AsyncClient() as http:
            for headers, code in cases:
                answer = await http.post(url, json=INITIALIZE, headers={**ACCEPT, **headers})
                assert answer.status_code == code, headers
            assert (await http.get(url.replace("/mcp", "/"))).status_code == 404
            assert (await http.post(url, content="{", headers=ACCEPT)).status_code == 400
            huge = {**INITIALIZE, "params": {"x": "y" * (5 << 20)}}
            assert (await http.post(url, json=huge, headers=ACCEPT)).status_code == 413


@pytest.mark.promise("mcp-http")
def test_it_is_not_open_to_others_without_a_token(desk: Desk) -> None:
    (desk.project / "open").write_text(TOKEN)
    (desk.project / "open").chmod(0o644)
    (desk.project / "short").write_text("secret")
    (desk.project / "short").chmod(0o600)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = (
            (("0.0.0.0:0",), 3, "there is no token"),
            (("[::]:0",), 3, "there is no token"),
            (("192.0.2.1:0",), 3, "there is no token"),
            (("8080",), 3, "is no place to serve"),
            (("127.0.0.1:port",), 3, "is no place to serve"),
            (("127.0.0.1:0", "--allow-host", "http://x"), 3, "is no host name"),
            (("127.0.0.1:0", "--token-file", "missing"), 3, "cannot be read"),
            (("127.0.0.1:0", "--token-file", "open"), 3, "others may read open"),
            (("127.0.0.1:0", "--token-file", "short"), 3, "the token in short is none"),
            ((f"127.0.0.1:{taken.getsockname()[1]}",), 6, "cannot be had"),
        )
        for arguments, code, words in cases:
            process = desk.start("mcp", "--http", *arguments)
            out, err = process.communicate(timeout=PATIENCE)
            assert (process.returncode, out) == (code, b""), err
            assert words in err.decode()
            assert "→" in err.decode()


def test_a_token_opens_it_to_others(desk: Desk) -> None:
    desk.environment["AGENTQ_MCP_TOKEN"] = TOKEN
    with Served(desk, where="0.0.0.0:0") as served:
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        right = {**ACCEPT, "Authorization": f"Bearer {TOKEN}"}
        assert httpx2.post(url, json=INITIALIZE, headers=ACCEPT).status_code == 401
        assert httpx2.post(url, json=INITIALIZE, headers={**right, "Host": "0.0.0.0"}).status_code == 200
        assert httpx2.post(url, json=INITIALIZE, headers={**right, "Origin": "http://evil.example"}).status_code == 421


@pytest.mark.promise("mcp-ends")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_the_middle_of_a_wait(desk: Desk, how: signal.Signals) -> None:
    await submit(desk, "slow")
    with Served(desk) as served:
        url = await asyncio.to_thread(lambda: served.url)
        with contextlib.suppress(Exception):  # the connection breaks under the client
            async with over_http(url) as talk:
                progress = Progress()
                waiting = asyncio.create_task(talk.ok("wait", ids=["slow"], seconds=600, progress=progress))
                await asyncio.wait_for(progress.began.wait(), PATIENCE)
                served.process.send_signal(how)
                assert await asyncio.to_thread(served.process.wait, PATIENCE) == {2: 130, 15: 0}[how]
                await waiting
        assert served.process.returncode == {2: 130, 15: 0}[how]


async def test_a_client_that_goes_away_leaves_no_wait(desk: Desk) -> None:
    await submit(desk, "slow")
    with Served(desk) as served:
        url = await asyncio.to_thread(lambda: served.url)
        progress = Progress()
        with contextlib.suppress(Exception):
            async with over_http(url) as talk:
                waiting = asyncio.create_task(talk.ok("wait", ids=["slow"], seconds=600, progress=progress))
                await asyncio.wait_for(progress.began.wait(), PATIENCE)
                waiting.cancel()
        async with over_http(url) as talk:
            assert "slow  pending" in await talk.ok("status", ids=["slow"])


def test_an_address_of_ipv6_is_served(desk: Desk) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with Served(desk, where="[::1]:0") as served:
        assert until(lambda: served.url).startswith("http://[::1]:")
        assert httpx2.post(served.url, json=INITIALIZE, headers=ACCEPT).status_code == 200
