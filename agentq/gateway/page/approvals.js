// All that waits for somebody's word.

import { get } from "./api.js";
import { approvalPanel } from "./approval.js";
import { debounced, fill, h, keyed } from "./dom.js";
import { subscribe } from "./live.js";
import { plainly } from "./plain.js";
import { title, to } from "./router.js";
import { problem } from "./toasts.js";
import { ago, nothing } from "./words.js";

const ENDS = ["completed", "failed", "cancelled", "expired"]; // of a task itself, or of one that it needs
/** Kinds of events after which other tasks may wait for an approval than before. */
export const TURNS = new Set(["approval_requested", "approved", "rejected", "released", "attempt_ended", ...ENDS]);

/** The view of the tasks that wait for an approval, each with what exactly is approved. */
export function approvals(root, params, leaving) {
  title("Approvals");
  const notice = h("div");
  const list = h("ul", { class: "plain" });
  fill(root, h("h1", {}, "Approvals"), h("p", { class: "dim" }, "An approval covers exactly what is shown: what is altered later needs a new one."), notice, list);

  async function load() {
    try {
      const { tasks } = await get("tasks", { state: "approval", limit: 100 }, leaving);
      keyed(list, tasks, (row) => row.task_id, make);
      fill(notice, tasks.length ? null : nothing("Nothing waits for an approval. A task that does is made with", 'agentq submit --requires-approval --to NAME --type TYPE --instructions "…"'));
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, load));
    }
  }

  function make(row) {
    const panel = h("div");
    const open = (event) => {
      if (event.currentTarget.open && !panel.firstChild) fill(panel, approvalPanel(row.task_id, leaving, load));
    };
    return h(
      "li",
      {},
      h(
        "details",
        { class: "card", ontoggle: open },
        h("summary", {}, h("strong", { class: "id" }, row.task_id), h("span", { class: "dim" }, ` for ${row.agent}, asked for by ${row.sender} `, ago(row.created_at)), h("span", { class: "title" }, plainly(row.title ?? ""))),
        h("p", {}, h("a", { href: to`/tasks/${row.task_id}` }, "See the task")),
        panel,
      ),
    );
  }

  const soon = debounced(load, 400, 2000);
  addEventListener("agentq:refresh", load, { signal: leaving });
  load();
  const stop = subscribe("/events", "", { event: (event) => TURNS.has(event.kind) && soon(), gap: soon });
  return () => (stop(), soon.cancel());
}
