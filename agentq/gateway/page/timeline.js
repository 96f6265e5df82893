// One task's steps, as the log tells them.

import { fill, h } from "./dom.js";
import { plainly } from "./plain.js";
import { bytes, clock, dollars, span } from "./words.js";

const MARKS = {
  submitted: "+",
  released: "○",
  delayed: "◷",
  approval_requested: "!",
  approved: "✓",
  rejected: "✗",
  claimed: "▶",
  attempt_ended: "↺",
  cancel_requested: "⊘",
  completed: "✓",
  failed: "✗",
  cancelled: "⊘",
  expired: "∅",
  dead_lettered: "✗",
  settled: "■",
};
const QUIET = new Set(["output", "reply", "worker_heartbeat"]);

/** A view of steps: `element`, `take(event)` and `takeAll(events)`; each event is shown once, in the order of its time. */
export function timelineView() {
  const events = new Map();
  const list = h("ol", { class: "timeline" });
  const none = h("p", { class: "dim" }, "reading …");
  const element = h("div", {}, none, list);

  function takeAll(more) {
    const before = events.size;
    for (const event of more) if (!QUIET.has(event.kind) && !events.has(event.id)) events.set(event.id, event);
    if (!events.size) none.textContent = "The log tells nothing of it (any more).";
    if (events.size === before) return;
    const ordered = [...events.values()].sort((one, other) => new Date(one.at) - new Date(other.at));
    none.hidden = true;
    let last = null;
    fill(list, ordered.map((event) => [step(event, last), (last = event) && null]));
  }

  return { element, takeAll, take: (event) => takeAll([event]) };
}

function step(event, before) {
  const after = before ? (new Date(event.at) - new Date(before.at)) / 1000 : 0;
  return h(
    "li",
    { class: `step is-${event.kind}` },
    h("span", { class: "mark", "aria-hidden": "true" }, MARKS[event.kind] ?? "·"),
    h(
      "div",
      {},
      h("p", { class: "what" }, words(event), h("span", { class: "dim when" }, clock(event.at), after >= 1 ? `, ${span(after)} later` : "")),
      details(event),
    ),
  );
}

/** What happened, in words; of who did it only the name. */
function words(event) {
  const { kind, by, attempt, host, data = {} } = event;
  const whose = by ? ` by ${by}` : "";
  const said = {
    submitted: `Submitted${whose}`,
    released: "Released: nothing holds it back",
    delayed: ["Waits until ", data.until ? clock(data.until) : "later"],
    approval_requested: `Approval asked for${whose}`,
    approved: `Approved${whose}`,
    rejected: `Rejected${whose}`,
    claimed: `Attempt ${attempt} begun${whose}${host ? ` on ${host}` : ""}`,
    progress: "Progress",
    attempt_ended: `Attempt ${attempt} ended without a result${data.counts ? "" : ", which does not count"}`,
    cancel_requested: `Cancel asked for${whose}`,
    completed: `Completed${whose}${data.verified ? ", verified" : ", not verified"}`,
    failed: `Failed${whose}`,
    cancelled: `Cancelled${whose}`,
    expired: `Expired${whose}`,
    dead_lettered: "Put to the dead letters",
    settled: "Settled: everything that follows is done",
  };
  return said[kind] ?? `${kind.replaceAll("_", " ")}${whose}`;
}

function details({ kind, data = {} }) {
  const text = kind === "progress" ? data.text : (data.reason ?? data.summary);
  const usage = data.usage ?? {};
  const cost = [
    usage.cost_usd !== undefined && dollars(usage.cost_usd),
    usage.seconds !== undefined && span(usage.seconds),
    data.artifacts?.length && `${data.artifacts.length} artifacts, ${bytes(data.artifacts.reduce((sum, one) => sum + (one.bytes ?? 0), 0))}`,
  ].filter(Boolean);
  return [text && h("p", { class: "said" }, plainly(text)), cost.length ? h("p", { class: "dim" }, cost.join(", ")) : null];
}
