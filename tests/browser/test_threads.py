"""Threads as they are seen: an answer while it grows, its end, and what a person decides of it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.place import Place, Served, decides, says
from tests.browser.sight import Sight

Look = Callable[..., Sight]


@pytest.mark.promise("thread-page")
def test_a_mention_becomes_a_placeholder_that_grows_and_ends(any_place: Place, look: Look) -> None:
    any_place.worker("alice", "hold 0\n" + says("It is ", "the cache", ".", why="I looked."))
    served = any_place.serve()
    sight = look(served, f"#/threads/{served.thread('Why is it slow?')}")
    sight.write("@alice why is it slow?")
    sight.see(sight.answer("alice"), "alice")
    sight.see(sight.answer("alice").locator(".typing"))
    expect(sight.answer("alice").locator("article")).to_have_attribute("aria-busy", "true")
    for gate, text in enumerate(("It is ", "It is the cache", "It is the cache.")):
        any_place.open_gate(str(gate))
        sight.reads(sight.text_of("alice"), text)
        sight.shot(f"growing-{gate}")
    any_place.open_gate("3")
    sight.see(sight.decided("alice"), "answered: I looked.")
    sight.gone(sight.answer("alice").locator(".typing"))
    sight.reads(sight.text_of("alice"), "It is the cache.")
    expect(sight.answer("alice").locator("article")).to_have_attribute("aria-busy", "false")


def test_two_agents_in_one_message_answer_each_for_itself(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("From alice."))
    place.worker("bob", "hold bob\n" + says("From bob.", decision="decline", why="Not my field."))
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.write("@alice and @bob, what is it?")
    sight.reads(sight.text_of("alice"), "From alice.")
    place.open_gate("1")
    sight.see(sight.decided("alice"), "answered")
    sight.see(sight.answer("bob").locator(".typing"))
    place.open_gate("bob")
    sight.see(sight.decided("bob"), "declined: Not my field.")
    sight.reads(sight.text_of("bob"), "From bob.")
    sight.shot("both")


@pytest.mark.promise("thread-page")
def test_two_browsers_and_a_late_reader_see_the_same(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("one ", "two ", "three"))
    thread = gateway.thread()
    sights = [look(gateway, f"#/threads/{thread}") for _ in range(2)]
    sights[0].write("@alice count")
    for sight in sights:
        sight.reads(sight.text_of("alice"), "one ")
    place.open_gate("1")
    for sight in sights:
        sight.reads(sight.text_of("alice"), "one two ")
    sights.append(look(gateway, f"#/threads/{thread}"))
    sights[2].reads(sights[2].text_of("alice"), "one two ")
    sights[2].see(sights[2].answer("alice").locator(".typing"))
    place.open_gate("2")
    for sight in sights:
        sight.reads(sight.text_of("alice"), "one two three")
    place.open_gate("3")
    for sight in sights:
        sight.see(sight.decided("alice"), "answered")
        sight.reads(sight.text_of("alice"), "one two three")


def test_the_list_says_who_writes_and_what_was_said_last(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("All is well."))
    thread = gateway.thread("Weather")
    sight = look(gateway, "#/threads")
    item = sight.page.locator("ol.threads > li").filter(has_text="Weather")
    sight.see(item)
    gateway.post(thread, "@alice how is it?")
    sight.see(item, "alice is writing")
    sight.shot("writing")
    sight.see(item, "how is it?")
    place.open_gate("1")
    sight.gone(item.locator(".typing"))


def test_an_agent_that_is_up_is_offered_first(place: Place, gateway: Served, look: Look) -> None:
    place.agent("aaron", "exit 1")
    place.worker("zoe", "exit 1")
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    offered = sight.page.get_by_label("Agent", exact=True)
    expect(offered).to_have_value("zoe")
    expect(offered.locator("option").first).to_have_text("aaron (not up)")


def test_a_thread_is_begun_in_the_page(gateway: Served, look: Look) -> None:
    sight = look(gateway, "#/threads")
    sight.page.get_by_text("New thread").click()
    sight.page.get_by_label("Title").fill("How fast is it?")
    sight.page.get_by_label("Description").fill("First line.\n\n```sh\nmake bench\n```")
    sight.page.get_by_role("button", name="Begin it").click()
    sight.see(sight.page.get_by_role("heading", name="How fast is it?"))
    sight.reads(sight.page.locator(".description pre"), "make bench")
    sight.see(sight.page.locator(".description .version"), "Version 0")


def test_an_answer_is_stopped(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("I begin ", "and never end"))
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.write("@alice say something long")
    sight.reads(sight.text_of("alice"), "I begin ")
    sight.answer("alice").get_by_role("button", name="Stop").click()
    sight.page.get_by_role("dialog").get_by_role("textbox").fill("enough of it")
    sight.page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    sight.see(sight.decided("alice"), "failed")
    sight.see(sight.decided("alice"), "enough of it")
    sight.reads(sight.text_of("alice"), "I begin ")


def test_a_failed_answer_is_asked_for_again(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "say 'So '\nexit 3")
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.write("@alice try it")
    sight.see(sight.decided("alice").first, "failed")
    place.agent("alice", says("Now it works."))
    place.open_gate("1")
    sight.answer("alice").get_by_role("button", name="Ask again").click()
    sight.see(sight.decided("alice").last, "answered")
    sight.reads(sight.text_of("alice").last, "Now it works.")
    sight.see(sight.page.locator("li.message.is-person").last, "@alice please try again.")


def test_an_attempt_that_crashes_is_followed_by_another_that_starts_anew(
    place: Place, gateway: Served, look: Look
) -> None:
    place.worker("alice", says("The first half ") + "\nexit 3", attempts=2, attempt2=says("All of it.", ""))
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.write("@alice tell me")
    sight.reads(sight.text_of("alice"), "The first half ")
    place.open_gate("1")
    sight.reads(sight.text_of("alice"), "All of it.")
    place.open_gate("2")
    sight.see(sight.decided("alice"), "answered")
    sight.reads(sight.text_of("alice"), "All of it.")


def test_each_time_that_an_agent_is_asked_again_it_is(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "exit 3")
    sight = look(gateway, f"#/threads/{gateway.thread()}")
    sight.write("@alice try it")
    again = sight.answer("alice").first.get_by_role("button", name="Ask again")
    for asked in (2, 3):
        again.click()
        expect(sight.page.locator("li.message.is-person")).to_have_count(asked)
        expect(sight.decided("alice")).to_have_count(asked)


def test_who_was_not_asked_is_seen_by_all(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("Here."))
    thread = gateway.thread()
    sights = [look(gateway, f"#/threads/{thread}") for _ in range(2)]
    sights[0].write("@nobody are you there?")
    sights[0].see(sights[0].page.locator(".composer .said"), "nobody was not asked")
    sights[0].write("@alice and @nobody-else, and you?")
    sights.append(look(gateway, f"#/threads/{thread}"))
    for sight in sights:
        unasked = sight.page.locator("li.message.is-person .unasked")
        sight.see(unasked.nth(0), "@nobody was not asked: ")
        sight.see(unasked.nth(1), "@nobody-else was not asked: ")


def test_an_answer_is_as_old_as_its_end(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("Here."))
    thread = gateway.thread()
    gateway.post(thread, "@alice are you there?")
    sight = look(gateway, f"#/threads/{thread}")
    sight.reads(sight.text_of("alice"), "Here.")
    place.open_gate("1")
    sight.see(sight.decided("alice"), "answered")
    found = gateway.call("GET", f"/api/threads/{thread}")["messages"][1]
    assert found["finished_at"] > found["at"]
    expect(sight.answer("alice").locator("header time")).to_have_attribute("datetime", found["finished_at"])


def test_a_description_that_somebody_else_changed_first_is_saved_after_a_look_at_it(
    gateway: Served, look: Look
) -> None:
    thread = gateway.thread("Speed", description="It is quick.")
    sight = look(gateway, f"#/threads/{thread}")
    sight.tolerant = True
    edit, field = (sight.page.get_by_role("button", name="Edit"), sight.page.get_by_role("textbox", name="Description"))
    edit.click()
    field.fill("It is mine.")
    gateway.call("POST", f"/api/threads/{thread}/description", {"text": "It is slow.", "base": 0})
    sight.page.get_by_role("button", name="Back").click()
    sight.reads(sight.page.locator(".description .prose"), "It is slow.")
    edit.click()
    expect(field).to_have_value("It is mine.")
    sight.page.get_by_role("button", name="Save").click()
    form = sight.page.locator("form.editing")
    sight.reads(form.locator("del"), "removed: quick.")
    sight.reads(form.locator("ins"), "added: slow.")
    expect(field).to_have_value("It is mine.")
    sight.page.get_by_role("button", name="Save").click()
    sight.reads(sight.page.locator(".description .prose"), "It is mine.")
    assert gateway.call("GET", f"/api/threads/{thread}")["description"]["number"] == 2
    edit.click()
    expect(field).to_have_value("It is mine.")
    expect(sight.page.get_by_role("button", name="Discard")).to_have_count(0)


@pytest.mark.promise("thread-page")
def test_an_answer_whose_worker_was_killed_is_told_as_interrupted(place: Place, gateway: Served, look: Look) -> None:
    worker = place.worker("alice", says("The first half ", "and the second."))
    sight, listed = look(gateway, f"#/threads/{gateway.thread('Cut')}"), look(gateway, "#/threads")
    sight.write("@alice tell me")
    sight.reads(sight.text_of("alice"), "The first half ")
    sight.see(sight.answer("alice").locator(".typing"), "alice is writing")
    listed.see(listed.page.locator("ol.threads > li"), "alice is writing")
    worker.kill()
    sight.see(sight.answer("alice").locator(".typing.is-waiting"), "alice was interrupted")
    expect(sight.answer("alice").locator(".typing")).not_to_contain_text("agent started")
    sight.page.reload()
    sight.see(sight.answer("alice").locator(".typing.is-waiting"), "alice was interrupted")
    sight.reads(sight.text_of("alice"), "The first half ")
    sight.go("#/threads")
    for one in (sight, listed):
        one.see(one.page.locator("ol.threads > li"), "waiting for alice")


def test_an_agent_that_nobody_runs_is_not_said_to_write(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", "exit 1")
    sight = look(gateway, f"#/threads/{gateway.thread('Nobody there')}")
    sight.write("@alice are you there?")
    sight.see(sight.answer("alice").locator(".typing.is-waiting"), "no worker of alice is up")
    sight.go("#/threads")
    item = sight.page.locator("ol.threads > li").filter(has_text="Nobody there")
    sight.see(item, "waiting for alice")
    expect(item).not_to_contain_text("writing")


def test_a_proposed_description_is_a_change_that_a_person_accepts(place: Place, gateway: Served, look: Look) -> None:
    better = decides("refine", "It named no figure.", text="See my proposal.", description="Answers within 50 ms.\n")
    place.worker("alice", better)
    thread = gateway.thread("Speed", description="Answers within a while.\n")
    sights = [look(gateway, f"#/threads/{thread}") for _ in range(2)]
    sights[0].page.get_by_label("Agent", exact=True).select_option("alice")
    sights[0].page.get_by_role("button", name="Refine").click()
    proposal = sights[0].page.locator(".proposal")
    sights[0].see(proposal, "It named no figure.")
    sights[0].reads(proposal.locator("del"), "removed: a while.")
    sights[0].reads(proposal.locator("ins"), "added: 50 ms.")
    sights[0].see(sights[0].decided("alice"), "proposed a change")
    sights[0].shot("proposed")
    expect(sights[0].page.locator(".description > div .prose")).to_have_text("Answers within a while.")
    proposal.get_by_role("button", name="Accept").click()
    for sight in sights:
        sight.reads(sight.page.locator(".description .prose"), "Answers within 50 ms.")
        sight.see(sight.page.locator(".description .version"), "Version 1")
        sight.gone(sight.page.locator(".proposal"))


def test_a_proposal_for_an_older_version_is_told_as_stale_and_declined(
    place: Place, gateway: Served, look: Look
) -> None:
    place.worker("alice", decides("refine", "Shorter.", text="Short.", description="Two."))
    thread = gateway.thread("Speed", description="One.")
    sight = look(gateway, f"#/threads/{thread}")
    sight.page.get_by_label("Agent", exact=True).select_option("alice")
    sight.page.get_by_role("button", name="Refine").click()
    sight.see(sight.page.locator(".proposal"))
    sight.page.get_by_role("button", name="Edit").click()
    sight.page.get_by_role("textbox", name="Description").fill("Three.")
    sight.page.get_by_role("button", name="Save").click()
    sight.reads(sight.page.locator(".description .prose"), "Three.")
    sight.see(sight.page.locator(".proposal.is-stale"), "made for version 0")
    expect(sight.page.get_by_role("button", name="Accept")).to_have_count(0)
    sight.page.locator(".proposal").get_by_role("button", name="Decline").click()
    sight.page.get_by_role("dialog").get_by_role("button", name="Decline").click()
    sight.gone(sight.page.locator(".proposal"))
    sight.reads(sight.page.locator(".description .prose"), "Three.")


def test_an_end_that_nobody_looks_at_is_told_in_the_title(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("one ", "two"))
    sight = look(gateway, f"#/threads/{gateway.thread('Elsewhere')}")
    sight.see(sight.page.get_by_label("Message", exact=True))
    sight.page.evaluate("Object.defineProperty(document, 'hidden', { get: () => window.away, configurable: true })")
    sight.page.evaluate("window.away = true")
    sight.write("@alice count")
    sight.reads(sight.text_of("alice"), "one ")
    expect(sight.page).to_have_title("Elsewhere · agentq")
    place.open_gate("1")
    place.open_gate("2")
    expect(sight.page).to_have_title("(1) Elsewhere · agentq")
    sight.see(sight.page.locator(".toast"), "alice answered in “Elsewhere”")
    sight.page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    expect(sight.page).to_have_title("Elsewhere · agentq")


def test_what_is_too_long_is_neither_cut_nor_sent(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", "exit 1")
    thread = gateway.thread("Long")
    sight = look(gateway, f"#/threads/{thread}")
    field, limit = sight.page.get_by_label("Message", exact=True), sight.page.locator(".limit")
    text = "😀" * 65_536 + "the end"
    sight.write(text)
    sight.reads(limit, "This is 7 characters too long: it may have 65,536.")
    sight.page.get_by_role("button", name="Assign").click()
    sight.shot("too-long")
    expect(field).to_have_value(text)
    field.fill(text[:-7])
    expect(limit).to_be_hidden()
    sight.press("Control+Enter")
    sight.see(sight.page.locator("li.message.is-person"))
    expect(field).to_have_value("")
    (message,) = gateway.call("GET", f"/api/threads/{thread}")["messages"]
    assert message["text"] == text[:-7]
    sight.page.get_by_role("button", name="Edit").click()
    sight.page.get_by_role("textbox", name="Description").fill("x" * 65_537)
    sight.page.get_by_role("button", name="Save").click()
    sight.reads(sight.page.locator("form.editing .limit"), "This is 1 character too long: it may have 65,536.")
    sight.go("#/threads")
    sight.page.locator("summary").filter(has_text="New thread").click()
    sight.page.get_by_label("Title").fill("x" * 201)
    sight.page.get_by_role("button", name="Begin it").click()
    sight.reads(sight.page.locator(".beginning .limit").first, "This is 1 character too long: it may have 200.")
    assert [one["thread_id"] for one in gateway.call("GET", "/api/threads")["threads"]] == [thread]
    task = gateway.call("POST", "/api/tasks", {"to": "alice", "type": "work", "instructions": "x"})["task_id"]
    sight.go(f"#/tasks/{task}")
    sight.page.get_by_role("button", name="Cancel …").click()
    dialog = sight.page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill("x" * 1001)
    dialog.get_by_role("button", name="Cancel the task").click()
    sight.reads(dialog.locator(".limit"), "This is 1 character too long: it may have 1,000.")
    assert gateway.call("GET", f"/api/tasks/{task}")["state"] == "pending"


def test_what_looks_like_a_credential_is_sent_only_by_who_says_so(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", "exit 1")
    thread = gateway.thread("Keys")
    sight = look(gateway, f"#/threads/{thread}")
    sight.tolerant = True
    looks = f"Is ghp_{'0123456789abcdefghij' * 2}"[:43] + " one of ours?"
    sight.write(looks)
    dialog = sight.page.get_by_role("dialog")
    sight.see(dialog, "the message, line 1, column 4: this looks like")
    sight.shot("asked")
    dialog.get_by_role("button", name="Back").click()
    sight.see(sight.page.locator(".composer .problem"), "It was not sent")
    expect(sight.page.locator(".composer")).not_to_contain_text("allow_secrets")
    expect(sight.page.get_by_label("Message", exact=True)).to_have_value(looks)
    assert gateway.call("GET", f"/api/threads/{thread}")["messages"] == []
    sight.page.get_by_role("button", name="Post", exact=True).click()
    dialog.get_by_role("button", name="Send it all the same").click()
    sight.reads(sight.page.locator("li.message.is-person .prose"), looks)
    sight.page.get_by_role("button", name="Edit").click()
    sight.page.get_by_role("textbox", name="Description").fill(looks)
    sight.page.get_by_role("button", name="Save").click()
    dialog.get_by_role("button", name="Send it all the same").click()
    sight.reads(sight.page.locator(".description .prose"), looks)
    sight.go("#/threads")
    sight.page.locator("summary").filter(has_text="New thread").click()
    sight.page.get_by_label("Title").fill(looks)
    sight.page.get_by_role("button", name="Begin it").click()
    dialog.get_by_role("button", name="Send it all the same").click()
    sight.reads(sight.page.get_by_role("heading", level=1), looks)
    task = gateway.call("POST", "/api/tasks", {"to": "alice", "type": "work", "instructions": "x"})["task_id"]
    sight.go(f"#/tasks/{task}")
    sight.page.get_by_role("button", name="Cancel …").click()
    dialog.get_by_role("textbox").fill(looks)
    dialog.get_by_role("button", name="Cancel the task").click()
    dialog.get_by_role("button", name="Send it all the same").click()
    sight.see(sight.page.locator(".task-head .badge"), "cancelled")


def test_a_retry_of_an_answer_says_that_the_thread_does_not_show_it(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "exit 1")
    thread = gateway.thread("Once more")
    sight = look(gateway, f"#/threads/{thread}")
    sight.write("@alice are you there?")
    sight.see(sight.decided("alice"), "failed")
    sight.answer("alice").get_by_role("link", name="task").click()
    sight.page.get_by_role("button", name="Retry as a new task").click()
    toast = sight.page.locator(".toast")
    sight.see(toast, "Its answer is not shown in the thread")
    expect(toast.get_by_role("link", name="the thread")).to_have_attribute("href", f"#/threads/{thread}")
    sight.see(sight.page.locator(".task-head"), f"{thread}, which does not show its answer")
    sight.shot("retried")
