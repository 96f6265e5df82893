"""For everybody: by keyboard alone, on a phone, in the dark, with enough contrast, and for who listens."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.place import Place, Served, decides, says
from tests.browser.sight import Sight

Look = Callable[..., Sight]
WORK = {"to": "alice", "type": "work", "instructions": "Do it."}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LONG = "an-unbroken-word-" * 8
PLAN = f"""tasks:
  one: {{to: alice, type: work, instructions: {LONG}}}
  two: {{to: bob, type: work, needs: [one], instructions: x}}
"""
CONTRAST = Path(__file__).with_name("contrast.js").read_text()
LISTEN = Path(__file__).with_name("listen.js").read_text()
NAMELESS = Path(__file__).with_name("nameless.js").read_text()


@pytest.fixture
def furnished(place: Place, gateway: Served) -> dict[str, str]:
    """Something of everything to look at: the addresses of all views."""
    place.worker(
        "alice",
        f"echo {LONG}\n"
        + says(f"All is well: {LONG}\n\n```\n{LONG * 3}\n```")
        + '\ncp "$AGENTQ_OUTPUT/answer.md" "$AGENTQ_OUTPUT/report.md"',
    )
    place.worker("bob", "exit 1")
    place.worker(
        "carol", decides("refine", "It was too short.", text="See there.", description=f"Much longer now. {LONG}")
    )
    place.agent(("agent-with-a-name-" * 4)[:64], "exit 1")
    place.open_gate("1")
    thread = gateway.thread(f"A thread about {LONG}", description="Short.")
    gateway.post(thread, "@alice how is it?")
    gateway.post(thread, f"@bob and you, {LONG}?")
    gateway.call("POST", f"/api/threads/{thread}/refine", {"agent": "carol"})
    done = gateway.call("POST", "/api/tasks", WORK | {"id": "done", "labels": {"key": LONG[:60]}})["task_id"]
    gateway.call("POST", "/api/tasks", WORK | {"id": "asks", "requires_approval": True, "context": LONG})
    gateway.call("POST", "/api/tasks", WORK | {"id": "fails", "to": "bob", "max_attempts": 1})
    made = gateway.call("POST", "/api/plans", {"plan": PLAN, "id": "plan"})
    place.start("wait", "done", "fails").wait(30)
    return {
        "agents": "#/agents",
        "tasks": "#/tasks",
        "task": f"#/tasks/{done}",
        "failed": "#/tasks/fails",
        "approval": "#/tasks/asks",
        "threads": "#/threads",
        "thread": f"#/threads/{thread}",
        "plans": "#/plans",
        "plan": f"#/plans/{made['task_id']}",
        "approvals": "#/approvals",
        "letters": "#/dead-letters",
        "figures": "#/figures",
    }


@pytest.mark.timeout(600)
@pytest.mark.promise("page-reach")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_phone_and_is_read_in_both_themes(
    scheme: str, furnished: dict[str, str], gateway: Served, look: Look
) -> None:
    narrow = look(gateway, color_scheme=scheme, **PHONE)
    wide = look(gateway, color_scheme=scheme, viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    found: dict[str, object] = {}
    for name, address in furnished.items():
        for width, sight in (("phone", narrow), ("desk", wide)):
            sight.go(address)
            sight.see(sight.page.get_by_role("heading", level=1))
            sight.settled()
            sight.shot(f"{scheme}-{width}-{name}")
            sight.is_no_wider_than_its_window()
            found |= {f"{name} {width} {what}": said for what in ("faint", "nameless") if (said := judged(sight, what))}
    assert found == {}


def judged(sight: Sight, what: str) -> object:
    """What is too faint to be read, or has no name that a screen reader could say."""
    return sight.page.evaluate({"faint": CONTRAST, "nameless": NAMELESS}[what])


@pytest.mark.promise("page-reach")
def test_a_message_with_a_mention_is_posted_by_keyboard_alone(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("Here."))
    place.worker("albert", says("Not me."))
    place.open_gate("1")
    thread = gateway.thread("By keyboard")
    sight = look(gateway, "#/threads")
    sight.see(sight.page.get_by_role("link", name="By keyboard"))
    tab_to(sight, sight.page.get_by_role("link", name="By keyboard"))
    sight.press("Enter")
    field = sight.page.get_by_label("Message", exact=True)
    sight.see(field)
    tab_to(sight, field)
    sight.page.keyboard.type("Hello @al")
    options = sight.page.locator(".mentions [role=option]")
    expect(options).to_have_count(2)
    assert sight.page.evaluate("document.activeElement.getAttribute('aria-activedescendant')")
    sight.press("Escape")
    expect(options).to_have_count(0)
    sight.page.keyboard.type("i")
    expect(options).to_have_text(["@alice"], use_inner_text=True)
    sight.press("Backspace")
    expect(options).to_have_count(2)
    chosen = sight.page.locator(".mentions [aria-selected=true]")
    first = chosen.inner_text().strip()
    sight.press("ArrowDown")
    expect(chosen).not_to_have_text(first)
    if chosen.inner_text().strip() != "@alice":
        sight.press("ArrowUp")
    sight.press("Enter")
    expect(field).to_have_value("Hello @alice ")
    sight.page.keyboard.type("are you there?")
    sight.press("Control+Enter")
    sight.reads(sight.text_of("alice"), "Here.")
    expect(field).to_be_focused()
    expect(field).to_have_value("")
    assert len(gateway.call("GET", f"/api/threads/{thread}")["messages"]) == 2


@pytest.mark.promise("page-reach")
def test_a_task_is_approved_by_keyboard_alone(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", "exit 1")
    gateway.call("POST", "/api/tasks", WORK | {"id": "asks", "requires_approval": True})
    sight = look(gateway, "#/agents")
    sight.see(sight.page.get_by_role("link", name="Approvals"))
    tab_to(sight, sight.page.get_by_role("link", name="Approvals"))
    sight.press("Enter")
    summary = sight.page.locator("summary").filter(has_text="asks")
    sight.see(summary)
    tab_to(sight, summary)
    sight.press("Enter")
    button = sight.page.get_by_role("button", name="Approve exactly this")
    sight.see(button)
    tab_to(sight, button)
    sight.press("Enter")
    sight.see("Nothing waits for an approval.")
    assert any("/approval-" in key for key in place.keys("controls/asks/"))


@pytest.mark.promise("page-reach")
def test_the_focus_goes_on_to_the_next_when_something_is_decided(place: Place, gateway: Served, look: Look) -> None:
    place.worker("bob", "exit 1")
    for name in ("one", "two"):
        gateway.call("POST", "/api/tasks", WORK | {"to": "bob", "id": f"asks-{name}", "requires_approval": True})
    sight = look(gateway, "#/approvals")
    heading = sight.page.get_by_role("heading", level=1)
    summaries = sight.page.locator("main li > details > summary")
    expect(summaries).to_have_count(2)
    for left in (1, 0):
        summaries.first.click()
        sight.page.get_by_role("button", name="Approve exactly this").first.focus()
        sight.press("Enter")
        expect(summaries).to_have_count(left)
        expect(summaries.first if left else heading).to_be_focused()
    sight.go("#/dead-letters")
    letters = sight.page.locator("li.letter")
    expect(letters).to_have_count(2)
    for left in (1, 0):
        letters.first.get_by_role("button", name="Delete …").focus()
        sight.press("Enter")
        sight.page.get_by_role("dialog").get_by_role("button", name="Delete").focus()
        sight.press("Enter")
        expect(letters).to_have_count(left)
        expect(letters.first.get_by_role("link") if left else heading).to_be_focused()


@pytest.mark.promise("page-reach")
def test_the_focus_stays_where_it_is_while_things_happen(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "hold 1")
    task = gateway.call("POST", "/api/tasks", WORK)["task_id"]
    agents, open_task, listed = look(gateway, "#/agents"), look(gateway, f"#/tasks/{task}"), look(gateway, "#/tasks")
    links = {
        agents: agents.page.locator(".agent .works a"),
        open_task: open_task.page.locator(".task-head").get_by_role("link", name="alice"),
        listed: listed.page.locator("main table").get_by_role("link", name=task),
    }
    open_task.see(open_task.page.locator(".task-head .badge"), "processing")
    for link in links.values():
        link.focus()
    open_task.page.evaluate("window.standing = document.querySelector('.task-head [role=status]')")
    gateway.call("POST", "/api/tasks", WORK | {"id": "another"})
    agents.see(agents.page.get_by_role("link", name="1 task waits"))
    agents.see(agents.page.locator(".sums"), "1 task running")
    listed.see(listed.page.locator("main table"), "another")
    expect(links[agents]).to_be_focused()
    expect(links[listed]).to_be_focused()
    place.open_gate("1")
    open_task.see(open_task.page.locator(".task-head .badge"), "failed")
    expect(links[open_task]).to_be_focused()
    assert open_task.page.evaluate("window.standing.isConnected"), "what is announced is announced by what was there"
    listed.see(listed.page.locator("main table tbody tr").filter(has_text=task), "failed")
    expect(links[listed]).to_be_focused()


@pytest.mark.promise("page-reach")
def test_the_focus_stays_in_a_thread_when_something_is_decided(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("I begin ", "and never end"))
    place.worker("carol", decides("refine", "Too short.", text="See there.", description="Longer."))
    thread = gateway.thread("Speed", description="Short.")
    gateway.call("POST", f"/api/threads/{thread}/refine", {"agent": "carol"})
    sight = look(gateway, f"#/threads/{thread}")
    accept = sight.page.get_by_role("button", name="Accept")
    accept.focus()
    sight.press("Enter")
    sight.gone(accept)
    expect(sight.page.get_by_role("heading", level=1)).to_be_focused()
    gateway.post(thread, "@alice say something long")
    sight.reads(sight.text_of("alice"), "I begin ")
    sight.answer("alice").get_by_role("button", name="Stop").focus()
    sight.press("Enter")
    dialog = sight.page.get_by_role("dialog")
    expect(dialog).to_have_accessible_description("What alice wrote so far stays, the answer counts as failed.")
    dialog.get_by_role("button", name="Stop it").focus()
    sight.press("Enter")
    sight.see(sight.decided("alice"), "failed")
    expect(sight.answer("alice").locator("article")).to_be_focused()


@pytest.mark.promise("page-reach")
def test_buttons_that_look_the_same_are_told_apart_by_who_listens(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("I begin ", "and never end"), limits="parallel = 2")
    place.worker("bob", "exit 1")
    place.worker("carol", "echo a > $AGENTQ_OUTPUT/report.md; echo b > $AGENTQ_OUTPUT/summary.md")
    thread = gateway.thread()
    for _ in range(2):
        gateway.post(thread, "@alice and @bob")
    done = gateway.call("POST", "/api/tasks", WORK | {"to": "carol"})["task_id"]
    for one in ("one", "two"):
        gateway.call("POST", "/api/tasks", WORK | {"to": "bob", "id": f"asks-{one}", "requires_approval": True})
    for address, names in {
        f"#/threads/{thread}": ("Stop alice", "Ask again bob"),
        "#/dead-letters": ("Delete … ", "Retry "),
        "#/approvals": ("Reject … asks-", "Approve exactly this asks-"),
        f"#/tasks/{done}": ("Save ",),
    }.items():
        sight = look(gateway, address)
        if address == "#/approvals":
            for summary in (sight.page.locator("main li > details > summary").nth(at) for at in range(2)):
                summary.click()
        for name in names:
            expect(sight.page.get_by_role("button", name=name).nth(1)).to_be_visible()
        heard = [button.text_content() for button in sight.page.locator("main button:visible").all()]
        assert len(heard) == len(set(heard)), heard


def test_an_answer_is_told_once_to_who_listens(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("one ", "two ", "three"))
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.see(sight.page.get_by_label("Message", exact=True))
    sight.page.evaluate(LISTEN)
    sight.write("@alice count")
    for gate in ("1", "2", "3"):
        sight.see(sight.answer("alice"))
        place.open_gate(gate)
    sight.see(sight.decided("alice"), "answered")
    heard = sight.page.evaluate("window.heard")
    assert [words for words in heard if words == "alice answered"] == ["alice answered"]
    assert not [words for words in heard if "one" in words], "no piece of a text is announced"


def tab_to(sight: Sight, what: Locator) -> None:
    """Press Tab until that has the focus."""
    for _ in range(80):
        if what.evaluate("element => element === document.activeElement"):
            return
        sight.press("Tab")
    raise AssertionError(f"not reached by Tab: {what}")
