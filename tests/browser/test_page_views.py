"""The views of the page beside threads: lists that follow, output, evidence, plans, figures, and the shell."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import FloatRect, Locator, Route, expect

from tests.brokers.node import Node
from tests.browser.line import Line
from tests.browser.place import Place, Served, says
from tests.browser.sight import PATIENCE, Sight
from tests.daemons.harness import until

Look = Callable[..., Sight]
WORK = {"to": "alice", "type": "work", "instructions": "Do it."}
REPORT = 'echo "All done." > "$AGENTQ_OUTPUT/report.md"'
PATCH = """diff --git a/mean.py b/mean.py
--- a/mean.py
+++ b/mean.py
@@ -1,3 +1,4 @@
 def mean(values):
-    return sum(values) / len(values)
+    if not values:
+        return 0
 # the end
diff --git a/new.py b/new.py
new file mode 100644
--- /dev/null
+++ b/new.py
@@ -0,0 +1,1 @@
+-- an SQL comment
"""
PLAN = """description: "Bring it\\u200b out.\\nAll of it."
tasks:
  design: {to: alice, type: work, instructions: "x"}
  api: {to: alice, type: work, needs: [design], instructions: "x"}
  page: {to: bob, type: work, needs: [design], instructions: "x"}
  ship: {to: bob, type: work, needs: [api, page, design], requires_approval: true, instructions: "x"}
"""
UNREADABLE = """() => {
  const faults = [];
  for (const chart of document.querySelectorAll(".chart")) {
    const card = chart.getBoundingClientRect();
    const ticks = [...chart.querySelectorAll(".tick")].map((one) => {
      const box = one.getBoundingClientRect();
      const size = parseFloat(getComputedStyle(one).fontSize);
      const scale = one.getCTM ? one.getScreenCTM().a : 1;
      return { text: one.textContent, box, size: size * scale };
    });
    ticks.forEach(({ text, box, size }, at) => {
      if (size < 11) faults.push(`${text} has ${size} px`);
      if (box.left < card.left || box.right > card.right || box.bottom > card.bottom) faults.push(`${text} is outside`);
      for (const other of ticks.slice(at + 1)) {
        const { left, right, top, bottom } = other.box;
        if (box.left < right && left < box.right && box.top < bottom && top < box.bottom)
          faults.push(`${text} is over ${other.text}`);
      }
    });
  }
  return faults;
}"""
PLAN_OF_MANY = """async () => {
  const { layout } = await import("/page/graph.js");
  const tasks = Array.from({ length: 300 }, (_, at) => ({
    task_id: `t${at}`, needs: at < 10 ? [] : [`t${at - 10}`, `t${(at * 7) % (at - 1)}`, "outside"],
  }));
  const began = performance.now();
  const { nodes, edges } = layout(tasks);
  const overlapping = nodes.filter((one, at) => nodes.slice(at + 1).some((other) =>
    one.x === other.x && one.y < other.y + other.height && other.y < one.y + one.height));
  const place = new Map(nodes.map((one) => [one.task.task_id, one]));
  const backwards = tasks.filter(({ task_id, needs }) =>
    needs.some((need) => place.get(need)?.x >= place.get(task_id).x));
  return { nodes: nodes.length, edges: edges.length > 300, overlapping: overlapping.length,
           backwards: backwards.length, quick: performance.now() - began < 5000 };
}"""


def ask(served: Served, **more: object) -> str:
    """The id of a new task for alice."""
    return str(served.call("POST", "/api/tasks", WORK | more)["task_id"])


def row(sight: Sight, task: str) -> Locator:
    """A task's row in the list."""
    return sight.page.locator("main table tbody tr").filter(has_text=task)


def test_a_list_follows_what_another_window_does(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "hold 1")
    task = ask(gateway)
    mine, other = look(gateway, "#/tasks"), look(gateway, f"#/tasks/{task}")
    mine.see(row(mine, task), "processing")
    other.page.get_by_role("button", name="Cancel …").click()
    other.page.get_by_role("dialog").get_by_role("button", name="Cancel the task").click()
    mine.see(row(mine, task), "cancelled")
    mine.see(row(mine, task), "cancelled by")


def test_a_task_whose_worker_went_silent_is_named_at_its_agent(place: Place, gateway: Served, look: Look) -> None:
    worker = place.worker("alice", "hold 1", limits="heartbeat_seconds = 0.5")
    task = ask(gateway)
    sight = look(gateway, "#/agents")
    card = sight.page.locator("li.agent").filter(has_text="alice")
    sight.see(card.locator(".works"), task)
    worker.kill()
    sight.see(card.locator(".works"), f"{task} stands: its worker went silent")
    sight.see(card, "nobody is up")
    sight.see(card.locator("pre"), "agentq worker run alice")
    sight.shot("stands")
    card.get_by_role("link", name=task).click()
    sight.see(sight.page.locator(".task-head .badge"), "worker silent")


def test_filters_stand_in_the_address(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    one, other = ask(gateway, labels={"team": "red"}), ask(gateway, labels={"team": "blue"}, requires_approval=True)
    sight = look(gateway, "#/tasks")
    expect(sight.page.locator("main table tbody tr")).to_have_count(2)
    sight.page.get_by_label("State").select_option("approval")
    sight.gone(row(sight, one))
    sight.page.get_by_text("More filters").click()
    sight.page.get_by_label("Label").fill("team=red")
    sight.see("No task is like that.")
    sight.page.reload()
    expect(sight.page.get_by_label("Label")).to_have_value("team=red")
    sight.page.get_by_label("Label").fill("team=blue")
    sight.see(row(sight, other))
    sight.page.get_by_label("Label").fill("\x01")
    sight.tolerant = True
    sight.page.get_by_label("Agent").fill("no such name!")
    sight.see(sight.page.locator("main .problem"), "agent")


@pytest.mark.promise("page-escapes")
def test_who_reads_the_output_is_not_moved_to_its_end(place: Place, gateway: Served, look: Look) -> None:
    lines = 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo "line $i of it"; done'
    place.worker("alice", f"{lines}\nhold 1\nprintf '\\033[31mafter\\033[0m\\a it\\n'\nhold 2")
    sight = look(gateway, f"#/tasks/{ask(gateway)}")
    output = sight.page.locator("pre.output")
    sight.see(output, "line 200 of it")
    at_end = "element => element.scrollHeight - element.scrollTop - element.clientHeight < 24"
    assert output.evaluate(at_end)
    output.evaluate("element => { element.scrollTop = 100; }")
    down = sight.page.get_by_role("button", name="to the end")
    sight.see(down)
    place.open_gate("1")
    sight.see(output, "after␇ it")
    assert output.evaluate("element => element.scrollTop") == 100
    down.click()
    assert output.evaluate(at_end)
    expect(down).to_be_hidden()
    assert output.inner_text().count("line 150 of it") == 1, "each piece is shown once"


def test_each_attempt_has_its_own_output(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "echo of the first; exit 1", attempts=2, attempt2="echo of the second; hold 1")
    sight = look(gateway, f"#/tasks/{ask(gateway)}")
    output = sight.page.locator("pre.output")
    sight.see(output, "of the second")
    expect(output).not_to_contain_text("of the first")
    sight.page.get_by_label("Attempt", exact=True).select_option("1")
    sight.see(output, "of the first")
    sight.see(sight.page.locator(".timeline"), "Attempt 1 ended without a result")


FLOOD = "echo before; seq 1 60000; echo THE-END"
LONG_LINE = "echo before; head -c 100000 /dev/zero | tr '\\0' x; echo; echo one; echo two"


@pytest.mark.parametrize(("script", "printed"), [(FLOOD, 348_909), (LONG_LINE, 100_016)])
def test_what_of_the_end_is_left_out_is_said_and_leads_to_the_whole(
    script: str, printed: int, place: Place, gateway: Served, look: Look
) -> None:
    place.worker("alice", f"hold 1\n{script}\nhold 2\n{REPORT}", limits="live_bytes = 20_000")
    task = ask(gateway)
    watching = look(gateway, f"#/tasks/{task}")
    watching.see(watching.page.locator(".task-head .badge"), "processing")
    place.open_gate("1")
    watching.see(watching.page.locator("pre.output"), "before")
    place.open_gate("2")
    later = look(gateway, f"#/tasks/{task}")
    for sight in (watching, later):
        gap = sight.page.locator("pre.output .left-out").last
        sight.see(gap, "left out; the whole is in the artifact transcript")
        sight.see(sight.page.locator(".outputs .bar"), f"attempt 1, {round(printed / 1024)} KiB")
        transcript = sight.page.locator(".artifact[data-artifact=transcript]")
        sight.see(transcript)
        gap.get_by_role("button").click()
        expect(transcript.locator("summary")).to_be_focused()
        sight.see(transcript.locator("pre"), "before")


def test_an_attempt_that_printed_nothing_says_so_once_it_has_ended(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", f"hold 1\n{REPORT}")
    sight = look(gateway, f"#/tasks/{ask(gateway)}")
    size = sight.page.locator(".outputs .bar")
    sight.see(size, "Nothing was printed yet.")
    place.open_gate("1")
    sight.see(size, "attempt 1, nothing was printed")


def test_an_answer_is_seen_from_its_beginning_by_who_comes_late(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", says("Once upon ", "a time.", decision="answer"))
    message = gateway.post(gateway.thread(), "@alice tell it")
    task = message["asks"][0]["task_id"]
    early = look(gateway, f"#/tasks/{task}")
    early.see(early.page.get_by_label("The answer so far"), "Once upon")
    late = look(gateway, f"#/tasks/{task}")
    late.see(late.page.get_by_label("The answer so far"), "Once upon")
    place.open_gate("1")
    late.see(late.page.get_by_label("The answer so far"), "Once upon a time.")
    place.open_gate("2")
    late.see(late.page.locator(".artifact").filter(has_text="answer").locator("pre"), "Once upon a time.")
    late.see("Decided: answer")
    expect(late.page.get_by_label("The answer so far")).to_be_hidden()


def test_a_patch_is_shown_as_a_change_and_evidence_can_be_saved(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", f"cat > \"$AGENTQ_OUTPUT/patch.diff\" <<'END'\n{PATCH}END\n{REPORT}")
    task = ask(gateway, expect=["patch"])
    sight = look(gateway, f"#/tasks/{task}")
    files = sight.page.locator(".diff details")
    expect(files).to_have_count(2, timeout=PATIENCE)
    sight.see(files.nth(0), "mean.py 2 added, 1 removed")
    sight.see(files.nth(1), "new.py 1 added, 0 removed")
    assert files.nth(0).locator(".del").inner_text().rstrip() == "-    return sum(values) / len(values)"
    artifact = sight.page.locator(".artifact").filter(has=sight.page.locator("strong", has_text="patch"))
    with sight.page.expect_download() as saving:
        artifact.get_by_role("button", name="Save").click()
    assert saving.value.path().read_text() == PATCH


def test_a_plan_is_a_graph_that_follows_its_tasks(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", REPORT)
    place.worker("bob", f"hold 1\n{REPORT}")
    plan = gateway.call("POST", "/api/plans", {"plan": PLAN, "id": "release"})["task_id"]
    sight = look(gateway, "#/plans")
    sight.page.get_by_role("link", name=plan).first.click()
    sight.see(sight.page.locator("main p.about"), "Bring it⟨U+200B⟩ out. All of it.")
    node = {name: sight.page.locator("a.node").filter(has_text=name) for name in ("design", "api", "page", "ship")}
    expect(node["api"]).to_have_attribute("aria-label", "api completed · alice", timeout=PATIENCE)
    expect(node["page"]).to_have_attribute("aria-label", "page processing · bob", timeout=PATIENCE)
    expect(node["ship"]).to_have_attribute("aria-label", "ship waits for tasks · bob")
    expect(sight.page.locator("path.edge")).to_have_count(5)
    place.open_gate("1")
    expect(node["ship"]).to_have_attribute("aria-label", "ship needs approval · bob", timeout=PATIENCE)
    sight.see(sight.page.locator("main table"), "needs approval")
    node["ship"].click()
    sight.see(sight.page.get_by_role("button", name="Approve exactly this"))


def test_a_plan_of_many_tasks_is_laid_out_in_layers(gateway: Served, look: Look) -> None:
    laid = look(gateway, "#/plans").page.evaluate(PLAN_OF_MANY)
    assert laid == {"nodes": 300, "edges": True, "overlapping": 0, "backwards": 0, "quick": True}


def test_figures_are_charts_with_a_table_each(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", REPORT)
    for task in (ask(gateway), ask(gateway)):
        place.cli("wait", task)
    sight = look(gateway, "#/figures")
    chart = sight.page.locator("figure.chart").filter(has_text="Tasks that ended")
    expect(chart.get_by_role("img")).to_have_attribute("aria-label", re.compile("completed 2"), timeout=PATIENCE)
    chart.get_by_text("As a table").click()
    expect(chart.locator("tbody tr").first.locator("td").first).to_have_text("2")
    sight.see(sight.page.locator("main table.cards"), "alice")
    sight.page.get_by_label("Of what ended in").select_option("7d")
    expect(sight.page).to_have_url(re.compile("since=7d"))


def test_figures_say_of_when_they_are_once_that_is_not_now(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    ask(gateway)
    with Line(gateway.port) as line:
        sight = look(Served(place, gateway.process, f"http://127.0.0.1:{line.port}"), "#/figures")
        sight.tolerant = True
        stand = sight.page.locator("main p[role=status]")
        sight.see(sight.page.locator(".sums"), "1 queued")
        sight.see(sight.page.locator("#connection"), "live")
        expect(stand).to_be_empty()
        line.cut()
        sight.see(stand, "As of ")
        line.mend()
        expect(stand).to_be_empty()

        def old(route: Route) -> None:
            answer = route.fetch()
            route.fulfill(response=answer, json=answer.json() | {"as_of": "2026-01-01T00:00:00Z"})

        sight.page.route("**/api/stats?*", old)
        sight.page.get_by_label("Of what ended in").select_option("7d")
        sight.see(stand, "As of ")


def test_figures_of_what_ended_are_of_the_whole_time(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", REPORT)
    place.agent("bob", REPORT)
    place.cli("wait", ask(gateway))
    gateway.call("POST", f"/api/tasks/{ask(gateway, to='bob')}/cancel", {"reason": "No."})
    sight = look(gateway, "#/agents")
    sight.page.route("**/api/series?*", earlier)
    sight.go("#/figures")
    chart = sight.page.locator("figure.chart").filter(has_text="Tasks that ended")
    words = "completed 1, failed 0, cancelled 1, expired 0"
    sight.see(chart.locator(".chart-now"), words)
    expect(chart.get_by_role("img")).to_have_attribute("aria-label", f"Tasks that ended: {words}")
    expect(chart.locator("rect.bar")).to_have_count(2)
    expect(sight.page.locator(".sums li", has_text="ended")).to_have_text("2 ended")
    sight.see(sight.page.locator("figure.chart").filter(has_text="Depth").locator(".chart-now"), "at most 7")
    chart.get_by_text("As a table").click()
    cells = chart.locator("tbody tr").nth(1).locator("td")
    expect(cells).to_have_text(["1", "0", "1", "0"])


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("since", ["1h", "30d"])
def test_what_is_written_at_a_chart_can_be_read(
    width: int, since: str, place: Place, gateway: Served, look: Look
) -> None:
    place.worker("alice", REPORT)
    place.cli("wait", ask(gateway))
    sight = look(gateway, viewport={"width": width, "height": 740})
    sight.page.route("**/api/series?*", much)
    sight.go(f"#/figures?since={since}")
    expect(sight.page.locator(".chart .tick")).to_have_count(36)
    sight.shot(f"{since}-{width}")
    assert sight.page.evaluate(UNREADABLE) == []
    sight.is_no_wider_than_its_window()


def much(route: Route) -> None:
    """The series with values that take long to be written, one of them on its own."""
    series = route.fetch().json()
    count = len(series["at"])
    series |= {"completed": [987_654] * count, "depth": [123_456] * count, "cost_usd": [4321.5] * count}
    series |= {name: [98_765.0] * count for name in ("oldest_seconds", "run_p50")}
    series["wait_p50"] = [1.5, *[None] * (count - 1)]
    route.fulfill(json=series)


def earlier(route: Route) -> None:
    """The series as they are, but that all which was counted was three moments before, and seven waited then."""
    series = route.fetch().json()
    series["depth"][-3] = 7
    for name in ("completed", "failed", "cancelled", "expired"):
        series[name] = [*series[name][3:], 0, 0, 0]
    route.fulfill(json=series)


@pytest.mark.promise("page-decides")
def test_what_turns_writing_around_is_seen_by_who_approves(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    task = ask(
        gateway, instructions="Delete \u202eevol I\u202c only.", context="\u200bhidden\x1b[8m", requires_approval=True
    )
    sight = look(gateway, f"#/tasks/{task}")
    sight.see(sight.page.locator(".approval"), "Delete ⟨U+202E⟩evol I⟨U+202C⟩ only.")
    sight.see(sight.page.locator(".approval"), "⟨U+200B⟩hidden␛[8m")


def test_a_dead_letter_is_deleted_only_when_that_is_confirmed(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "exit 1")
    task = ask(gateway, max_attempts=1)
    sight = look(gateway, "#/agents")
    sight.see(sight.page.locator("#count-dead-letters"), "1")
    sight.page.get_by_role("link", name="Dead letters").click()
    letter = sight.page.locator("li.letter").filter(has_text=task)
    button = letter.get_by_role("button", name="Delete …")
    button.click()
    sight.see(sight.page.get_by_role("dialog"))
    sight.press("Escape")
    sight.gone(sight.page.get_by_role("dialog"))
    expect(button).to_be_focused()
    button.click()
    sight.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    sight.see("There are no dead letters.")
    expect(sight.page.locator("#count-dead-letters")).to_be_hidden()


def test_the_count_of_approvals_follows_what_was_waited_for(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", f"hold 1\n{REPORT}")
    sight = look(gateway, "#/agents")
    sight.page.evaluate("addEventListener('agentq:refresh', event => event.stopImmediatePropagation(), true)")
    one = "{to: alice, type: work, instructions: x, needs: [%s], requires_approval: %s}"
    tasks = {"a": one % ("", "false"), "c": one % ("a", "false"), "d": one % ("c", "true")}
    plan = "tasks:\n" + "".join(f"  {name}: {task}\n" for name, task in tasks.items())
    gateway.call("POST", "/api/plans", {"plan": plan, "id": "release"})
    sight.settled()
    expect(sight.page.locator("#count-approvals")).to_be_hidden()
    place.open_gate("1")
    sight.see(sight.page.locator("#count-approvals"), "1 waiting")


def test_a_delay_that_is_over_lets_an_approval_be_counted(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    sight = look(gateway, "#/agents")
    task = ask(gateway, requires_approval=True, delay="4s")
    until(lambda: gateway.call("GET", f"/api/tasks/{task}")["waits_for"] == "approval", "that its time has come")
    sight.see(sight.page.locator("#count-approvals"), "1 waiting")


def test_a_line_that_was_cut_is_told_and_the_list_catches_up(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    with Line(gateway.port) as line:
        sight = look(Served(place, gateway.process, f"http://127.0.0.1:{line.port}"), "#/tasks")
        sight.tolerant = True
        connection = sight.page.locator("#connection")
        sight.see(connection, "live")
        line.cut()
        sight.see(connection, "reconnecting")
        sight.see(sight.page.locator("#banner"), "may be old")
        task = ask(gateway)
        line.mend()
        sight.see(connection, "live")
        sight.see(row(sight, task), "queued")
        expect(sight.page.locator("#banner")).to_be_hidden()


def test_with_the_broker_away_what_is_known_stays(on_broker: Place, stopped_broker: Node, look: Look) -> None:
    on_broker.worker("alice", REPORT)
    served = on_broker.serve()
    task = ask(served)
    on_broker.cli("wait", task)
    sight = look(served, "#/tasks")
    sight.tolerant = True
    sight.see(row(sight, task), "completed")
    stopped_broker.stop()
    sight.see(sight.page.locator("#banner"), "The broker is away")
    sight.see(sight.page.locator("#connection"), "engine away")
    sight.see(row(sight, task), "completed")
    sight.go(f"#/tasks/{task}")
    sight.see(sight.page.locator(".artifact").first, "report")
    sight.shot("away")
    stopped_broker.start()
    expect(sight.page.locator("#banner")).to_be_hidden(timeout=60_000)


# ---------------------------------------------------------------------- the shell


def test_the_keyboard_goes_everywhere(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", "hold 1")
    sight = look(gateway, "#/agents")
    sight.see(sight.page.get_by_role("heading", name="Agents"))
    sight.press("Tab")
    expect(sight.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    sight.press("Enter")
    expect(sight.page.locator("main")).to_be_focused()
    sight.press("/")
    search = sight.page.get_by_label("Words")
    expect(search).to_be_focused()
    sight.page.keyboard.type("a/b")
    expect(search).to_have_value("a/b")
    expect(sight.page.get_by_role("link", name="Tasks", exact=True)).to_have_attribute("aria-current", "page")
    sight.go(f"#/tasks/{ask(gateway)}")
    cancel = sight.page.get_by_role("button", name="Cancel …")
    cancel.focus()
    sight.press("Enter")
    expect(sight.page.get_by_role("dialog").get_by_role("textbox")).to_be_focused()
    sight.press("Escape")
    expect(cancel).to_be_focused()


def test_a_theme_that_was_chosen_is_kept(gateway: Served, look: Look) -> None:
    sight = look(gateway, "#/agents", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = sight.page.evaluate(ground)
    sight.page.get_by_label("Theme").select_option("dark")
    dark = sight.page.evaluate(ground)
    assert dark != light
    sight.page.reload()
    assert sight.page.evaluate(ground) == dark
    sight.page.get_by_label("Theme").select_option("auto")
    assert sight.page.evaluate(ground) == light


def test_a_phone_has_a_menu(gateway: Served, look: Look) -> None:
    sight = look(gateway, "#/agents", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    link = sight.page.get_by_role("link", name="Figures")
    expect(link).to_be_hidden()
    sight.page.get_by_role("button", name="Menu").tap()
    sight.shot("menu")
    link.tap()
    sight.see(sight.page.get_by_role("heading", name="Figures"))
    expect(link).to_be_hidden()
    sight.is_no_wider_than_its_window()


def test_what_an_agent_does_now_is_said_to_who_comes_late(place: Place, gateway: Served, look: Look) -> None:
    place.worker("alice", 'hold 1\necho "reads the tests" > "$AGENTQ_OUTPUT/.doing.txt"\nhold 2')
    task = ask(gateway)
    early = look(gateway, f"#/tasks/{task}")
    early.see(early.page.locator(".task-head .doing"), "agent started")
    place.open_gate("1")
    early.see(early.page.locator(".task-head .doing"), "reads the tests")
    late = look(gateway, f"#/tasks/{task}")
    late.see(late.page.locator(".task-head .doing"), "reads the tests")
    place.open_gate("2")
    late.see(late.page.locator(".task-head .badge"), "failed")
    late.gone(late.page.locator(".task-head .doing"))


def test_of_more_tasks_than_are_listed_it_is_said_how_to_reach_them(gateway: Served, look: Look) -> None:
    sight = look(gateway, "#/agents")
    row = {
        "state": "queued",
        "waits_for": "queued",
        "agent": "alice",
        "type": "work",
        "created_at": "2026-01-01T00:00:00Z",
    }
    rows = [row | {"task_id": f"t-{number}"} for number in range(500)]
    listed = json.dumps({"tasks": rows, "next": "t-499", "as_of": None})
    sight.page.route("**/api/tasks?*", lambda route: route.fulfill(body=listed, content_type="application/json"))
    sight.go("#/tasks")
    sight.see("500 newest tasks. For older ones, filter; or see: agentq list")
    expect(sight.page.get_by_role("button", name="Older tasks")).to_be_hidden()


def test_who_comes_back_to_a_list_is_where_they_were(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    for _ in range(60):
        ask(gateway)
    sight = look(gateway, "#/tasks")
    rows = sight.page.locator("main table tbody tr")
    expect(rows).to_have_count(50)
    sight.page.get_by_role("button", name="Older tasks").click()
    expect(rows).to_have_count(60)
    rows.nth(55).get_by_role("link").first.focus()
    top = sight.page.evaluate("scrollY")
    assert top > 0
    sight.press("Enter")
    sight.see(sight.page.get_by_role("heading", name="Timeline"))
    assert sight.page.evaluate("scrollY") == 0
    sight.page.go_back()
    expect(rows).to_have_count(60)
    until(lambda: sight.page.evaluate("scrollY") == top, "the list where it was")
    sight.page.get_by_role("link", name="Agents", exact=True).click()
    sight.see(sight.page.get_by_role("heading", name="Agents", exact=True))
    sight.page.get_by_role("link", name="Tasks", exact=True).click()
    expect(rows).to_have_count(50)
    assert sight.page.evaluate("scrollY") == 0, "who goes there anew begins at the top"


def test_what_is_not_there_is_told_with_what_to_do(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    ask(gateway)
    sight = look(gateway, "#/agents")
    sight.tolerant = True
    for address in ("#/tasks/no-such-task", "#/tasks/no%20task"):
        sight.go(address)
        sight.see(sight.page.locator("main .problem"))
        sight.see(sight.page.locator("main .problem .hint"))
        expect(sight.page.get_by_role("heading", name="Timeline")).to_have_count(0)
    sight.go("#/plans/nope")
    problem = sight.page.locator("main .problem")
    sight.see(problem, "there is no plan nope")
    expect(problem.get_by_role("link", name="the plans")).to_have_attribute("href", "#/plans")
    expect(sight.page.get_by_role("heading", name="Its tasks")).to_have_count(0)
    expect(sight.page.locator("main table")).to_be_hidden()
    sight.go("#/tasks/nope")
    sight.see(problem, "there is no task nope")
    expect(problem.get_by_role("link", name="the tasks")).to_have_attribute("href", "#/tasks")
    sight.go("#/tasks?state=bogus")
    sight.see(problem, "'bogus' is no state")
    expect(sight.page.locator("main table")).to_be_hidden()
    sight.go("#/nowhere")
    sight.see("There is no such page")


def test_what_is_a_task_and_no_plan_leads_to_the_task(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    task = ask(gateway)
    sight = look(gateway, f"#/plans/{task}")
    sight.tolerant = True
    sight.see(sight.page.locator("main .problem"), f"{task} is no plan")
    sight.page.locator("main .problem").get_by_role("link", name=task).click()
    sight.see(sight.page.locator(".task-head .badge"), "queued")


def test_cards_stand_apart_and_fields_in_a_row(place: Place, gateway: Served, look: Look) -> None:
    place.agent("alice", REPORT)
    task = ask(gateway, requires_approval=True)
    for settings in ({}, {"viewport": {"width": 360, "height": 740}, "is_mobile": True}):
        sight = look(gateway, f"#/tasks/{task}", **settings)
        sight.see(sight.page.get_by_role("heading", name="This needs an approval"))
        sight.shot("cards")
        approval, why = boxes(sight, ".approval", ".why")
        assert why["y"] - (approval["y"] + approval["height"]) >= 8
        sight.go("#/tasks")
        words, state, agent = boxes(sight, "#filter-text", "#filter-state", "#filter-agent")
        assert (state["y"], state["height"]) == (agent["y"], agent["height"])
        assert words["height"] == state["height"]
        sight.shot("filters")


def boxes(sight: Sight, *selectors: str) -> Iterator[FloatRect]:
    """Where these are."""
    for selector in selectors:
        box = sight.see(sight.page.locator(selector)).bounding_box()
        assert box
        yield box
