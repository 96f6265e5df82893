// A task's row, and what an event changes in it until it is read anew.

import { h } from "./dom.js";
import { plainly } from "./plain.js";
import { to } from "./router.js";
import { ago, badge, dollars, hasEnded, span } from "./words.js";

const CHANGES = {
  claimed: (row, event) => ({ state: "processing", waits_for: null, attempt: event.attempt, claimed_at: event.at, host: event.host }),
  progress: (row, event) => ({ doing: event.data?.text ?? row.doing }),
  attempt_ended: (row, event) => ({ state: "pending", waits_for: "queued", reason: event.data?.reason }),
  delayed: (row, event) => ({ waits_for: row.state === "pending" ? "delayed" : row.waits_for, until: event.data?.until }),
  released: (row) => ({ waits_for: row.state === "pending" ? "queued" : row.waits_for }),
  approval_requested: (row) => ({ waits_for: row.waits_for === "queued" ? "approval" : row.waits_for }),
  cancel_requested: (row, event) => ({ cancel_at: event.at }),
};
for (const kind of ["completed", "failed", "cancelled", "expired"]) {
  CHANGES[kind] = (row, event) => ({
    state: kind,
    waits_for: null,
    finished_at: event.at,
    reason: event.data?.reason ?? null,
    summary: event.data?.summary ?? null,
    verified: event.data?.verified ?? false,
    cost_usd: event.data?.usage?.cost_usd ?? row.cost_usd,
  });
}

/** The row as it is after an event; the same object when the event changes nothing. What has ended stays so. */
export function told(row, event) {
  const change = CHANGES[event.kind];
  if (!change || hasEnded(row.state)) return row;
  if (event.kind === "attempt_ended" && event.attempt < row.attempt) return row;
  return { ...row, ...change(row, event) };
}

/** The columns of a table of tasks. */
export const COLUMNS = [
  ["State", (row) => [badge(row.state, row.waits_for), row.cancel_at && !hasEnded(row.state) && h("span", { class: "dim" }, " cancel asked")]],
  ["Task", naming, "wide"],
  ["Agent", (row) => row.agent ?? "–", "name"],
  ["Type", (row) => row.type ?? "–", "name"],
  ["Created", (row) => ago(row.created_at), "when"],
  ["Took", took, "number"],
  ["Cost", (row) => dollars(row.cost_usd), "number"],
];

function naming(row) {
  const said = row.state === "processing" ? row.doing : hasEnded(row.state) && row.state !== "completed" ? row.reason : null;
  return [
    h("a", { class: "id", href: to`/tasks/${row.task_id}` }, row.task_id),
    row.members ? h("a", { class: "tag", href: to`/plans/${row.task_id}` }, `plan of ${row.members}`) : null,
    Object.entries(row.labels ?? {}).map(([key, value]) => h("span", { class: "tag" }, plainly(value ? `${key}=${value}` : key))),
    row.title && h("span", { class: "title" }, plainly(row.title)),
    said && h("span", { class: "said" }, plainly(said)),
  ];
}

function took(row) {
  if (row.state === "processing") return ago(row.claimed_at, { bare: true });
  if (!row.finished_at || !row.claimed_at) return "–";
  return span((new Date(row.finished_at) - new Date(row.claimed_at)) / 1000);
}
