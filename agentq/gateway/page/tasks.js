// Tasks, newest first, with filters, as they change.

import { get } from "./api.js";
import { busy, debounced, fill, h } from "./dom.js";
import { subscribe } from "./live.js";
import { keepQuery, title } from "./router.js";
import { COLUMNS, told } from "./rows.js";
import { table } from "./table.js";
import { problem } from "./toasts.js";
import { nothing } from "./words.js";

const PAGE = 50;
const MOST = 500;
const STATES = [
  ["", "any state"],
  ["open", "not ended"],
  ["queued", "queued"],
  ["processing", "processing"],
  ["delayed", "delayed"],
  ["dependencies", "waits for tasks"],
  ["approval", "needs approval"],
  ["lease", "worker silent"],
  ["ended", "ended"],
  ["completed", "completed"],
  ["failed", "failed"],
  ["cancelled", "cancelled"],
  ["expired", "expired"],
];
const FIELDS = ["text", "state", "agent", "type", "label", "sender", "since"];
const ROWS = new Set(["submitted", "released", "delayed", "approval_requested", "approved", "rejected", "claimed", "progress"]);
for (const kind of ["attempt_ended", "cancel_requested", "completed", "failed", "cancelled", "expired"]) ROWS.add(kind);

/** How many tasks were listed at this entry of the tab's history: so many are again for who comes back. */
const kept = () => history.state?.listed ?? 0;
const keep = (listed) => history.replaceState({ ...history.state, listed }, "");

/** The view of tasks; its filters stand in the address. */
export function tasks(root, params, leaving) {
  title("Tasks");
  const list = table("Tasks, newest first", COLUMNS, (row) => row.task_id);
  const notice = h("div");
  const found = h("p", { class: "dim", role: "status" });
  const more = h("button", { type: "button", hidden: true, onclick: older }, "Older tasks");
  const form = filters(params.query, () => load(true));
  fill(root, h("h1", {}, "Tasks"), form, found, notice, list.element, more);
  if (params.query.get("focus")) form.querySelector("[type=search]").focus();

  let rows = [];
  let next = null;
  let turn = 0;

  async function load(anew = false) {
    const mine = ++turn;
    if (anew) keep(0);
    const wanted = anew ? PAGE : Math.min(MOST, Math.max(PAGE, rows.length, kept()));
    try {
      const answer = await get("tasks", { ...asked(form), limit: wanted }, leaving);
      if (mine !== turn) return;
      rows = answer.tasks;
      next = answer.next;
      show();
    } catch (error) {
      if (error.name === "AbortError" || mine !== turn) return;
      if (anew) [rows, next] = [[], null]; // they are not what is asked for now
      show();
      fill(notice, problem(error, () => load()));
    }
  }

  async function older() {
    busy([more]);
    try {
      const answer = await get("tasks", { ...asked(form), limit: PAGE, before: next }, leaving);
      const known = new Set(rows.map((row) => row.task_id));
      rows = [...rows, ...answer.tasks.filter((row) => !known.has(row.task_id))];
      next = answer.next;
      keep(rows.length);
      show();
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, older));
    }
    busy([more], false);
  }

  function show() {
    list.show(rows);
    list.element.hidden = rows.length === 0;
    more.hidden = !next || rows.length >= MOST;
    const one = rows.length === 1;
    const full = next && rows.length >= MOST ? ". For older ones, filter; or see: agentq list" : "";
    fill(found, rows.length ? `${rows.length}${next ? " newest" : ""} task${one ? "" : "s"}${full}` : "");
    fill(notice, rows.length ? null : empty(form));
  }

  const soon = debounced(load, 500, 2500);
  const redraw = debounced(() => list.show(rows), 50, 150);
  function event(one) {
    if (!one.task_id || !ROWS.has(one.kind)) return;
    const at = rows.findIndex((row) => row.task_id === one.task_id);
    if (at >= 0) {
      rows[at] = told(rows[at], one);
      redraw();
    }
    if (one.kind !== "progress") soon();
  }

  load();
  addEventListener("agentq:refresh", () => load(), { signal: leaving });
  const stop = subscribe("/events", "", { event, gap: soon });
  return () => (stop(), soon.cancel(), redraw.cancel());
}

function empty(form) {
  if (Object.keys(asked(form)).length) return nothing("No task is like that. Take a filter away to see more.");
  return nothing(
    "There are no tasks yet. Submit one:",
    'agentq submit --to implementation-worker --type implementation --instructions "Add a --json flag."',
  );
}

function asked(form) {
  const values = FIELDS.map((name) => [name, form.elements[name].value.trim()]);
  return Object.fromEntries(values.filter(([, value]) => value));
}

function filters(query, changed) {
  const soon = debounced(() => {
    keepQuery(Object.entries(asked(form)));
    changed();
  }, 250);
  const field = (name, label, props = {}) => {
    const id = `filter-${name}`;
    const input = h("input", { id, name, type: "text", autocomplete: "off", value: query.get(name) ?? "", ...props });
    return h("div", {}, h("label", { for: id }, label), input);
  };
  const chosen = query.get("state") ?? "";
  const known = STATES.some(([value]) => value === chosen);
  const states = [...STATES, ...(known ? [] : [[chosen, chosen]])].map(([value, words]) => h("option", { value, selected: value === chosen }, words));
  const rare = ["type", "label", "sender", "since"];
  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filter tasks", oninput: soon, onsubmit: (event) => (event.preventDefault(), soon()) },
    field("text", "Words", { type: "search", placeholder: "in id, title, summary, reason   ( / )" }),
    h("div", {}, h("label", { for: "filter-state" }, "State"), h("select", { id: "filter-state", name: "state" }, states)),
    field("agent", "Agent", { placeholder: "name" }),
    h(
      "details",
      { open: rare.some((name) => query.get(name)) },
      h("summary", {}, "More filters"),
      h(
        "div",
        { class: "filters" },
        field("type", "Type"),
        field("label", "Label", { placeholder: "KEY or KEY=VALUE" }),
        field("sender", "Asked for by"),
        field("since", "Created since", { placeholder: "24h, 7d" }),
      ),
    ),
  );
  return form;
}
