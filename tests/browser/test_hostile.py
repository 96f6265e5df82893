"""What agents, senders and file names say is text, whatever it says: nothing of it is executed, loaded or drawn."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.place import Place, Served, decides
from tests.browser.sight import Sight

Look = Callable[..., Sight]
EVIL = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(2)</script>",
    '"><svg onload=alert(3)>',
    "'-alert(4)-'",
    "javascript:alert(5)",
    "</textarea></pre></code><iframe srcdoc='<script>alert(6)</script>'></iframe>",
    "![x](http://192.0.2.1/track.png) [click](javascript:alert(7))",
    "${alert(8)} {{constructor.constructor('alert(9)')()}}",
    "\u202egnp.exe\u202c \u0007\u001b[31m",
)
ALL = " ".join(EVIL)
PATCH = f"--- a/{EVIL[0]}\n+++ b/{EVIL[0]}\n@@ -1 +1 @@\n-{ALL}\n+{ALL}"
STRANGERS = "img, iframe, object, embed, script:not([src]), a[href^='javascript:'], [onerror], [onload], main base"


def nothing_of_it_is_there(sight: Sight) -> None:
    """No element came of any text; that nothing was executed or loaded is minded until the window closes."""
    expect(sight.page.locator(STRANGERS)).to_have_count(0)


def nothing_turns_the_writing_around(sight: Sight) -> None:
    """Neither in what is shown nor in what the window is called."""
    assert "\u202e" not in sight.page.inner_text("body") + sight.page.title()


@pytest.mark.promise("page-escapes")
def test_a_thread_of_nothing_but_markup_is_text(place: Place, gateway: Served, look: Look) -> None:
    answer = f"{ALL}\n\n```{EVIL[0]}\n{ALL}\n```\n`{EVIL[0]}`\n"
    place.worker(
        "alice",
        f"cat > \"$AGENTQ_OUTPUT/answer.md\" <<'END'\n{answer}END\nhold 1\n" + decides("refine", ALL, description=ALL),
    )
    thread = gateway.thread(f"{EVIL[8]} {ALL}"[:180], description=f"{ALL}\n\nwas")
    sight = look(gateway, f"#/threads/{thread}")
    sight.write(f"@alice {ALL}")
    sight.see(sight.text_of("alice"), EVIL[0])
    nothing_of_it_is_there(sight)
    place.open_gate("1")
    sight.see(sight.decided("alice"), EVIL[1])
    sight.see(sight.page.locator(".proposal"), EVIL[2])
    nothing_turns_the_writing_around(sight)
    sight.see(sight.page.locator("li.message.is-person .prose"), EVIL[5])
    nothing_of_it_is_there(sight)
    sight.shot("thread")
    sight.go("#/threads")
    sight.see(sight.page.locator("ol.threads"), EVIL[1])
    nothing_of_it_is_there(sight)


@pytest.mark.promise("page-escapes")
def test_a_task_of_nothing_but_markup_is_text(place: Place, gateway: Served, look: Look) -> None:
    script = "\n".join(
        [
            f"cat <<'END'\n{ALL}\nEND",
            f"cat > \"$AGENTQ_OUTPUT/report.md\" <<'END'\n# {ALL}\n\n{ALL}\nEND",
            f"cat > \"$AGENTQ_OUTPUT/summary.md\" <<'END'\n{ALL}\nEND",
            f"cat > \"$AGENTQ_OUTPUT/page.html\" <<'END'\n<script>alert(10)</script>{ALL}\nEND",
            f"cat > \"$AGENTQ_OUTPUT/patch.diff\" <<'END'\n{PATCH}\nEND",
        ]
    )
    place.worker("alice", script)
    body = {
        "to": "alice",
        "type": "work",
        "instructions": ALL,
        "labels": {"evil": EVIL[0], "repo": EVIL[2], "odd": EVIL[8]},
    }
    task = gateway.call("POST", "/api/tasks", body | {"context": ALL})["task_id"]
    sight = look(gateway, f"#/tasks/{task}")
    sight.see(sight.page.locator("main"), "completed")
    sight.see(sight.page.locator("main"), EVIL[0])
    for name in ("page", "patch", "report"):
        artifact = sight.page.locator(".artifact").filter(has_text=name).first
        artifact.locator("summary").first.click()
        sight.see(artifact, EVIL[4])
    nothing_of_it_is_there(sight)
    nothing_turns_the_writing_around(sight)
    sight.shot("task")
    sight.go("#/tasks")
    sight.see(sight.page.locator("main"), task)
    nothing_of_it_is_there(sight)


def test_an_artifact_that_is_a_web_page_is_handed_out_as_a_file(place: Place, gateway: Served) -> None:
    import urllib.request

    place.worker(
        "alice",
        'echo \'<script>alert(1)</script>\' > "$AGENTQ_OUTPUT/page.html"\necho done > "$AGENTQ_OUTPUT/report.md"',
    )
    body = {"to": "alice", "type": "work", "instructions": "x", "expect": ["page"]}
    task = gateway.call("POST", "/api/tasks", body)["task_id"]
    place.cli("wait", task)
    with urllib.request.urlopen(f"{gateway.url}/api/tasks/{task}/artifacts/page") as answer:
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].startswith("text/plain")
        assert "sandbox" in answer.headers["content-security-policy"]
