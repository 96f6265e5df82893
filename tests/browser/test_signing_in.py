"""A gateway that wants a token: asked for, refused, and taken away while the page is open."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.place import Place
from tests.browser.sight import Sight

Look = Callable[..., Sight]


def token_of(place: Place, name: str, *roles: str) -> str:
    """A new token."""
    flags = [flag for role in roles for flag in ("--role", role)]
    return place.cli("token", "new", name, *flags).split()[-1]


def sign_in(sight: Sight, token: str) -> None:
    """Give the page a token."""
    sight.page.get_by_label("Token", exact=True).fill(token)
    sight.page.get_by_role("button", name="Go on").click()


@pytest.mark.promise("page-token")
def test_a_token_is_asked_for_and_one_that_is_revoked_ends_all(place: Place, look: Look) -> None:
    token, other = token_of(place, "anna", "coordinator"), token_of(place, "otto", "observer")
    served = place.serve()
    sight = look(served, "#/threads")
    sight.tolerant = True
    sight.see(sight.page.get_by_role("heading", name="A token, please"))
    sight.shot("asked")
    sign_in(sight, "aqt_wrong_token")
    sight.see("does not know this token")
    sign_in(sight, token)
    sight.see(sight.page.get_by_role("heading", name="Threads"))
    sight.see(sight.page.locator("#who"), "anna")
    expect(sight.page.locator("#connection")).to_contain_text("live")
    assert token not in sight.page.url
    place.cli("token", "revoke", token.split("_")[1])
    sight.see(sight.page.get_by_role("heading", name="A token, please"))
    assert sight.page.evaluate("[...Object.values(sessionStorage), ...Object.values(localStorage)].join()") == ""
    sign_in(sight, other)
    sight.see(sight.page.locator("#who"), "otto")


def test_who_only_looks_is_offered_nothing_to_do(place: Place, look: Look) -> None:
    token, mine = token_of(place, "otto", "observer"), token_of(place, "anna", "coordinator")
    place.agent("alice", "exit 1")
    served = place.serve()
    body = {"to": "alice", "type": "work", "instructions": "Do it.", "requires_approval": True}
    task = served.call("POST", "/api/tasks", body, mine)["task_id"]
    thread = served.call("POST", "/api/threads", {"title": "Seen"}, mine)["thread_id"]
    sight = look(served, f"#/tasks/{task}")
    sight.tolerant = True
    sign_in(sight, token)
    sight.see("Your token does not allow you to approve.")
    expect(sight.page.locator("main").get_by_role("button")).to_have_count(0)
    sight.go(f"#/threads/{thread}")
    sight.see(sight.page.get_by_role("heading", name="Seen"))
    expect(sight.page.locator("form.composer")).to_have_count(0)
