// Plans: tasks that are made of tasks.

import { get } from "./api.js";
import { debounced, fill, h } from "./dom.js";
import { subscribe } from "./live.js";
import { plainly } from "./plain.js";
import { title, to } from "./router.js";
import { table } from "./table.js";
import { problem } from "./toasts.js";
import { ago, badge, nothing } from "./words.js";

const COLUMNS = [
  ["State", (row) => badge(row.state, row.waits_for)],
  ["Plan", (row) => [h("a", { class: "id", href: to`/plans/${row.task_id}` }, row.task_id), row.title && h("span", { class: "title" }, plainly(row.title))], "wide"],
  ["Tasks", (row) => row.members, "number"],
  ["Asked for by", (row) => row.sender ?? "–", "name"],
  ["Created", (row) => ago(row.created_at), "when"],
];
const KINDS = new Set(["submitted", "claimed", "completed", "failed", "cancelled", "expired"]);

/** The view of all plans. */
export function plans(root, params, leaving) {
  title("Plans");
  const notice = h("div");
  const list = table("Plans, newest first", COLUMNS, (row) => row.task_id);
  fill(root, h("h1", {}, "Plans"), notice, list.element);

  async function load() {
    try {
      const { tasks } = await get("tasks", { plans: true, limit: 100 }, leaving);
      const found = tasks.filter((row) => row.members);
      list.show(found);
      list.element.hidden = !found.length;
      fill(notice, found.length ? null : nothing("There are no plans. Write one, and submit it:", "agentq plan submit plan.yaml"));
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, load));
    }
  }

  const soon = debounced(load, 500, 2500);
  addEventListener("agentq:refresh", load, { signal: leaving });
  load();
  const stop = subscribe("/events", "", { event: (event) => KINDS.has(event.kind) && soon(), gap: soon });
  return () => (stop(), soon.cancel());
}
