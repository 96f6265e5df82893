// Agents: who is up, who is idle, who works on what since when, and what waits for each.

import { get } from "./api.js";
import { debounced, fill, h, keyed, renew } from "./dom.js";
import { subscribe } from "./live.js";
import { plainly } from "./plain.js";
import { title, to } from "./router.js";
import { table } from "./table.js";
import { problem } from "./toasts.js";
import { ago, nothing, span } from "./words.js";

/** The view of all agents, and of their workers below. */
export function agents(root, params, leaving) {
  title("Agents");
  const sums = h("ul", { class: "sums" });
  const cards = h("ul", { class: "agents" });
  const notice = h("div");
  const workers = table("Workers", WORKER_COLUMNS, (one) => one.worker);
  const below = h("section", { hidden: true }, h("h2", {}, "Workers"), workers.element);
  fill(root, h("h1", {}, "Agents"), sums, notice, cards, below);

  async function load() {
    try {
      const asked = [get("agents", {}, leaving), get("workers", {}, leaving), get("tasks", { state: "lease", limit: 100 }, leaving)];
      const [found, processes, silent] = await Promise.all(asked);
      const all = found.agents.map((one) => ({ ...one, stuck: silent.tasks.filter((row) => row.agent === one.agent) }));
      fill(sums, summed(all));
      keyed(cards, ordered(all), (one) => one.agent, () => h("li", { class: "card agent" }), showAgent);
      workers.show(processes.workers);
      below.hidden = processes.workers.length === 0;
      fill(notice, advice(all));
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, load));
    }
  }

  const soon = debounced(load, 300, 1500);
  addEventListener("agentq:refresh", load, { signal: leaving });
  load();
  const stop = subscribe("/events", "", {
    event: (event) => event.kind !== "worker_heartbeat" && soon(),
    gap: soon,
  });
  return () => (stop(), soon.cancel());
}

const WORKER_COLUMNS = [
  ["Worker", (one) => h("span", { class: "mono" }, one.worker)],
  ["Stands", (one) => h("span", { class: `badge is-worker-${one.state}` }, one.state)],
  ["Slots", (one) => (one.state === "up" || one.state === "draining" ? `${one.running.length}/${one.parallel ?? 1}` : "–"), "number"],
  ["Heard", (one) => ago(one.heard_at)],
  ["Up for", (one) => ago(one.up_at, { bare: true })],
  ["Version", (one) => one.version ?? "–"],
  ["Was on", (one) => one.was_running.map((work) => h("a", { href: to`/tasks/${work.task_id}` }, work.task_id)), "left"],
];

function summed(all) {
  const count = (test) => all.filter(test).length;
  const queued = all.reduce((sum, one) => sum + (one.queued ?? 0), 0);
  const running = all.reduce((sum, one) => sum + one.working.length, 0);
  const oldest = Math.max(0, ...all.map((one) => one.oldest_seconds ?? 0));
  return [
    [count((one) => one.up), "up"],
    [running, running === 1 ? "task running" : "tasks running"],
    [queued, "waiting in queues"],
    [oldest ? span(Math.floor(oldest)) : "–", "the oldest waits"],
  ].map(([number, words]) => h("li", {}, h("strong", {}, number), ` ${words}`));
}

/** Those that do something or should come first. */
function ordered(all) {
  const rank = (one) => (one.up || isWanted(one) ? 0 : 1);
  return [...all].sort((one, other) => rank(one) - rank(other) || one.agent.localeCompare(other.agent));
}

/** Whether there is something that only a worker of it brings on. */
function isWanted({ queued, stuck }) {
  return queued > 0 || stuck.length > 0;
}

function advice(all) {
  if (all.length === 0) {
    return nothing(
      "No agent is known yet. Make a worker, and start it; or try what the demo shows.",
      "agentq worker new NAME",
      "agentq worker run NAME",
      "agentq demo",
    );
  }
  return null;
}

function standing(one) {
  const more = one.up > 1 ? `, ${one.up} up` : "";
  if (!one.up) return ["down", "○", isWanted(one) ? "nobody is up" : "down"];
  return one.working.length ? ["working", "▶", `working${more}`] : ["idle", "●", `idle${more}`];
}

function showAgent(card, one) {
  const [name, sign, words] = standing(one);
  renew(
    card,
    h(
      "div",
      { class: "head" },
      h("h2", {}, h("a", { href: `${to`/tasks`}?agent=${encodeURIComponent(one.agent)}` }, one.agent)),
      h("span", { class: `badge is-agent-${name}` }, h("span", { class: "sign", "aria-hidden": "true" }, sign), words),
    ),
    one.types?.length ? h("p", { class: "dim" }, `takes ${one.types.join(", ")}`) : null,
    h(
      "ul",
      { class: "works" },
      one.working.map((work) =>
        h(
          "li",
          {},
          h("a", { href: to`/tasks/${work.task_id}` }, work.task_id),
          h("span", { class: "dim" }, " for ", ago(work.since, { bare: true }), `, attempt ${work.attempt}`),
          work.host && h("span", { class: "dim" }, ` on ${work.host}`),
          work.doing && h("q", { class: "doing", title: "an agent's words" }, plainly(work.doing)),
        ),
      ),
      one.stuck.map(({ task_id }) =>
        h("li", {}, h("a", { href: to`/tasks/${task_id}` }, task_id), h("span", { class: "dim" }, " stands: its worker went silent")),
      ),
    ),
    h("p", { class: "queue" }, queue(one)),
    !one.up && isWanted(one) ? h("pre", {}, h("code", {}, `agentq worker run ${one.agent}`)) : null,
  );
}

function queue(one) {
  if (one.queued === null || one.queued === undefined) return "queue unknown";
  if (one.queued === 0) return one.stuck.length ? "nothing else waits" : "nothing waits";
  const oldest = one.oldest_seconds === null ? "" : `, the oldest for ${span(Math.floor(one.oldest_seconds))}`;
  return h(
    "a",
    { href: `${to`/tasks`}?agent=${encodeURIComponent(one.agent)}&state=queued` },
    `${one.queued} ${one.queued === 1 ? "task waits" : "tasks wait"}${oldest}`,
  );
}
