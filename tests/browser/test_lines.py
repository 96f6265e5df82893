"""The gateway, the line to it or the broker goes away and comes back: nothing is seen twice, nothing is missing."""

import shlex
from collections.abc import Callable
from urllib.error import URLError

import pytest
from playwright.sync_api import expect

from tests.brokers.node import Node
from tests.browser.line import Line
from tests.browser.place import Place, Served, decides
from tests.browser.sight import Sight

AWAY = "The gateway does not answer"
UNKNOWN = "It is not known whether this was done."
Look = Callable[..., Sight]
WORDS = 60
TALE = " ".join(f"word{number}" for number in range(WORDS))


def teller(*holds: int) -> str:
    """An agent that writes word after word, and holds behind some of them at the gate of their number."""
    steps = []
    for number in range(WORDS):
        steps.append(f"say {shlex.quote(f'word{number} ')}; sleep 0.03")
        if number in holds:
            steps.append(f"hold {number}")
    return "\n".join([*steps, decides("answer", "Told.")])


@pytest.mark.promise("thread-page")
def test_a_gateway_killed_while_an_answer_grows_leaves_no_gap(any_place: Place, look: Look) -> None:
    any_place.worker("alice", teller(10, 40))
    served = any_place.serve()
    sight = look(served, f"#/threads/{served.thread()}")
    sight.tolerant = True
    sight.write("@alice tell it")
    sight.see(sight.text_of("alice"), "word10")
    served.kill()
    any_place.open_gate("10")  # it writes on while nobody serves
    sight.see(sight.page.locator("#connection"), "reconnecting")
    again = served.again()
    sight.see(sight.text_of("alice"), "word40")
    expect(sight.page.locator("#connection")).to_contain_text("live", timeout=30_000)
    any_place.open_gate("40")
    sight.see(sight.decided("alice"), "answered")
    sight.reads(sight.text_of("alice"), TALE)
    assert again.url == served.url


@pytest.mark.promise("thread-page")
def test_a_line_cut_again_and_again_leaves_no_gap(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", teller(5, 20, 35, 50))
    thread = gateway.thread()
    with Line(gateway.port) as line:
        cut_off = look(Served(place, gateway.process, f"http://127.0.0.1:{line.port}"), f"#/threads/{thread}")
        cut_off.tolerant = True
        steady = look(gateway, f"#/threads/{thread}")
        cut_off.write("@alice tell it")
        for gate in (5, 20, 35, 50):
            cut_off.see(cut_off.text_of("alice"), f"word{gate}")
            line.cut()
            place.open_gate(str(gate))
            cut_off.see(cut_off.page.locator("#connection"), "reconnecting")
            line.mend()
        for sight in (cut_off, steady):
            sight.see(sight.decided("alice"), "answered")
            sight.reads(sight.text_of("alice"), TALE)


def test_a_browser_that_is_offline_catches_up(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", teller(10, 30))
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.tolerant = True
    sight.write("@alice tell it")
    sight.see(sight.text_of("alice"), "word10")
    sight.context.set_offline(True)
    with sight.page.expect_event("requestfailed"):  # what is asked for once the answer is there
        place.open_gate("10")
        place.open_gate("30")
    sight.context.set_offline(False)
    sight.see(sight.decided("alice"), "answered")
    sight.reads(sight.text_of("alice"), TALE)


@pytest.mark.promise("thread-page")
def test_with_the_broker_away_the_page_says_so_and_catches_up(
    on_broker: Place, stopped_broker: Node, look: Look
) -> None:
    worker = on_broker.worker("alice", teller(10))
    served = on_broker.serve()
    thread = served.thread("While it is away")
    sight = look(served, f"#/threads/{thread}")
    sight.tolerant = True
    sight.write("@alice tell it")
    sight.see(sight.text_of("alice"), "word10")
    stopped_broker.stop()
    sight.see(sight.page.locator("#banner"), "broker")
    sight.shot("broker-away")
    sight.write("A word in between, @alice")
    sight.see(sight.page.locator("li.message.is-person").last, "A word in between")
    on_broker.open_gate("10")
    stopped_broker.start()
    expect(sight.page.locator("#banner")).to_be_hidden(timeout=60_000)
    expect(sight.decided("alice").first).to_contain_text("answered", timeout=60_000)
    sight.reads(sight.text_of("alice").first, TALE)
    expect(sight.decided("alice")).to_have_count(2, timeout=60_000)
    assert not worker.ended.is_set()


def test_what_cannot_be_posted_stays_in_the_field_and_is_posted_once(place: Place, gateway: Served, look: Look) -> None:
    thread = gateway.thread()
    sight = look(gateway, f"#/threads/{thread}")
    sight.tolerant = True
    sight.see(sight.page.get_by_label("Message", exact=True))
    gateway.kill()
    sight.write("Nobody hears me.")
    sight.see(sight.page.locator(".composer .problem"), "does not answer")
    expect(sight.page.get_by_label("Message", exact=True)).to_have_value("Nobody hears me.")
    assert sight.page.evaluate("Object.values(sessionStorage)") == ["Nobody hears me."], (
        "kept when the page is loaded anew"
    )
    with pytest.raises(URLError):
        gateway.call("GET", "/api/health")
    again = gateway.again()
    sight.page.reload()
    expect(sight.page.get_by_label("Message", exact=True)).to_have_value("Nobody hears me.")
    sight.page.get_by_role("button", name="Post", exact=True).click()
    sight.reads(sight.page.locator("li.message.is-person .prose"), "Nobody hears me.")
    assert len(again.call("GET", f"/api/threads/{thread}")["messages"]) == 1
    assert sight.page.evaluate("sessionStorage.length") == 0


def test_what_a_person_did_while_the_gateway_was_away_is_not_said_to_be_asked_again(
    place: Place, gateway: Served, look: Look
) -> None:
    place.agent("alice", "exit 1")
    asked = {"to": "alice", "type": "work", "instructions": "Do it.", "id": "asks", "requires_approval": True}
    gateway.call("POST", "/api/tasks", asked)
    with Line(gateway.port) as line:
        served = Served(place, gateway.process, f"http://127.0.0.1:{line.port}")
        thread, task = look(served, f"#/threads/{gateway.thread()}"), look(served, "#/tasks/asks")
        field, problem = thread.page.get_by_label("Message", exact=True), thread.page.locator(".composer .problem")
        thread.see(field)
        approve = task.page.get_by_role("button", name="Approve exactly this")
        task.see(approve)
        thread.tolerant = task.tolerant = True
        line.cut()
        thread.write("Nobody hears me.")
        approve.click()
        for said in (problem, task.page.locator(".toast.alert")):
            said = said.filter(has_text=AWAY)
            thread.see(said, UNKNOWN)
            expect(said).not_to_contain_text("asked again")
        thread.shot("unknown")
        line.mend()
        thread.gone(problem)
        expect(field).to_have_value("Nobody hears me.")
        task.see(task.page.locator(".toast.alert"), UNKNOWN)


def test_what_could_not_be_read_is_read_once_the_gateway_is_back(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", "exit 1")
    asked = {"to": "alice", "type": "work", "instructions": "Read me.", "id": "asks", "requires_approval": True}
    gateway.call("POST", "/api/tasks", asked)
    with Line(gateway.port) as line:
        served = Served(place, gateway.process, f"http://127.0.0.1:{line.port}")
        listed, opened = look(served, "#/approvals"), look(served, "#/agents")
        summary = listed.page.locator("summary").filter(has_text="asks")
        listed.see(summary)
        for sight in (listed, opened):
            sight.see(sight.page.locator("#connection"), "live")
            sight.tolerant = True
        line.cut()
        summary.click()
        opened.page.evaluate("location.hash = '#/tasks/asks'")
        listed.see(listed.page.get_by_role("region", name="Approval of asks"), AWAY)
        opened.see(opened.page.locator("main .problem").first, AWAY)
        line.mend()
        for sight in (listed, opened):
            panel = sight.page.get_by_role("region", name="Approval of asks")
            sight.see(panel.locator(".theirs"), "Read me.")
            sight.see(panel.get_by_role("button", name="Approve exactly this"))
            sight.gone(sight.page.get_by_text(AWAY))
        opened.see(opened.page.locator(".about"), "Read me.")
