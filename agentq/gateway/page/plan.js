// One plan: its tasks as a graph, and the same as a table.

import { get, path } from "./api.js";
import { debounced, fill, h, renew, svg } from "./dom.js";
import { layout } from "./graph.js";
import { subscribe } from "./live.js";
import { plainly } from "./plain.js";
import { title, to } from "./router.js";
import { table } from "./table.js";
import { problem } from "./toasts.js";
import { badge, stateSign, stateWords } from "./words.js";

const MARGIN = 8;
const LONGEST = 25;

/** The view of one plan, which follows its tasks. */
export function plan(root, params, leaving) {
  const id = params.id;
  title(id);
  const notice = h("div");
  const about = h("p", { class: "dim about" });
  const standing = h("p", { class: "standing-line", role: "status" });
  const picture = h("div", { class: "graph", tabindex: "0", role: "region", "aria-label": "The plan as a graph" });
  const list = table("Tasks of the plan", columns(id), (one) => one.task_id);
  const shown = h("div", { hidden: true }, standing, picture, h("h2", {}, "Its tasks"), list.element);
  fill(root, h("h1", { class: "id" }, id), about, notice, shown);
  let members = new Set();

  async function load() {
    try {
      const found = await get(path`plans/${id}`, {}, leaving);
      members = new Set([id, ...found.tasks.map((one) => one.task_id)]);
      renew(about, plainly(found.description));
      renew(standing, badge(found.state), " ", counted(found.tasks), " ", h("a", { href: to`/tasks/${id}` }, "The plan as a task"));
      renew(picture, drawn(found.tasks, id));
      list.show(found.tasks);
      shown.hidden = false;
      fill(notice);
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, load));
    }
  }

  const soon = debounced(load, 300, 1500);
  addEventListener("agentq:refresh", load, { signal: leaving });
  load();
  const stop = subscribe("/events", "", {
    event: (event) => members.has(event.task_id) && event.kind !== "progress" && soon(),
    gap: soon,
  });
  return () => (stop(), soon.cancel());
}

function columns(id) {
  const link = (one) => h("a", { class: "id", href: to`/tasks/${one}` }, nameIn(one, id));
  return [
    ["State", (one) => badge(one.state, one.waits_for)],
    ["Task", (one) => link(one.task_id), "wide"],
    ["Agent", (one) => one.agent, "name"],
    ["Type", (one) => one.type, "name"],
    ["Needs", (one) => (one.needs?.length ? one.needs.map((need) => [link(need), " "]) : "–")],
  ];
}

/** Children's ids derive from their plan's. */
function nameIn(taskId, planId) {
  return taskId.startsWith(`${planId}.`) ? taskId.slice(planId.length + 1) : taskId;
}

function counted(tasks) {
  const done = tasks.filter((one) => one.state === "completed").length;
  return h("span", { class: "dim" }, `${done} of ${tasks.length} completed`);
}

function drawn(tasks, planId) {
  if (!tasks.length) return null;
  const { nodes, edges, width, height } = layout(tasks);
  const box = `${-MARGIN} ${-MARGIN} ${width + 2 * MARGIN} ${height + 2 * MARGIN}`;
  return svg(
    "svg",
    { viewBox: box, width: width + 2 * MARGIN, height: height + 2 * MARGIN, role: "group", "aria-label": "Tasks and what they need; the table below says the same" },
    svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0 0L8 4L0 8z" }))),
    edges.map((one) => svg("path", { class: "edge", d: one, "marker-end": "url(#arrow)" })),
    nodes.map((one) => node(one, planId)),
  );
}

function node({ task, x, y, width, height }, planId) {
  const name = nameIn(task.task_id, planId);
  const words = stateWords(task.state, task.waits_for);
  return svg(
    "a",
    { href: to`/tasks/${task.task_id}`, class: `node is-${task.waits_for ?? task.state}`, "aria-label": `${name} ${words} · ${task.agent}`, transform: `translate(${x} ${y})` },
    svg("rect", { width, height, rx: 8 }),
    svg("text", { class: "sign", "aria-hidden": "true", x: 12, y: 25 }, stateSign(task.state, task.waits_for)),
    svg(
      "text",
      {},
      svg("tspan", { class: "name", x: 34, y: 24 }, fitted(name)),
      " ",
      svg("tspan", { class: "about", x: 34, y: 44 }, fitted(`${words} · ${task.agent}`, LONGEST + 1)),
    ),
  );
}

function fitted(text, longest = LONGEST) {
  return text.length > longest ? `${text.slice(0, longest - 1)}…` : text;
}
