// Figures: how deep queues are, how old what waits is, how long things take, what fails, and what it costs.

import { get } from "./api.js";
import { chart } from "./charts.js";
import { debounced, fill, h } from "./dom.js";
import { connection, subscribe, whenConnection } from "./live.js";
import { keepQuery, title } from "./router.js";
import { table } from "./table.js";
import { problem } from "./toasts.js";
import { ago, clock, dollars, nothing, short, span } from "./words.js";

const SPANS = [
  ["1h", "hour", 60],
  ["24h", "24 hours", 48],
  ["7d", "7 days", 56],
  ["30d", "30 days", 60],
];
const OUTCOMES = [
  ["completed", "a"],
  ["failed", "b"],
  ["cancelled", "c"],
  ["expired", "d"],
];
const FRESH = 60_000;
const ENDS = new Set(OUTCOMES.map(([name]) => name));

/** The view of figures over a span of time, by agent below. */
export function figures(root, params, leaving) {
  title("Figures");
  const wanted = params.query.get("since");
  const chosen = SPANS.some(([value]) => value === wanted) ? wanted : "24h";
  const options = SPANS.map(([value, words]) => h("option", { value, selected: value === chosen }, `the last ${words}`));
  const since = h("select", { id: "since", onchange: () => (keepQuery([["since", since.value]]), load()) }, options);
  const sums = h("ul", { class: "sums" });
  const notice = h("div");
  const stand = h("p", { class: "dim", role: "status" });
  const charts = h("div", { class: "charts" });
  const agents = table("Figures by agent", AGENT_COLUMNS, (one) => one.key);
  const below = h("section", { hidden: true }, h("h2", {}, "By agent"), agents.element);
  fill(root, h("h1", {}, "Figures"), h("p", {}, h("label", { for: "since" }, "Of what ended in "), since), notice, stand, sums, charts, below);

  let asOf = null;
  const date = () => fill(stand, isOld(asOf) ? ["As of ", clock(asOf), ", ", ago(asOf), "."] : null);

  async function load() {
    const points = SPANS.find(([value]) => value === since.value)[2];
    try {
      const [series, stats] = await Promise.all([
        get("series", { since: since.value, points }, leaving),
        get("stats", { since: since.value, by: "agent" }, leaving),
      ]);
      asOf = stats.as_of;
      date();
      fill(sums, summed(stats));
      redraw(charts, drawn(series));
      agents.show(stats.parts);
      below.hidden = !stats.parts.length;
      fill(notice, stats.total.ended || stats.total.now?.queued ? null : nothing("Nothing ended in this time. What agentq measures is also told to Prometheus at /metrics, and by", "agentq stats --since 7d --by agent"));
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, load));
    }
  }

  const soon = debounced(load, 2000, 10_000);
  addEventListener("agentq:refresh", load, { signal: leaving });
  load();
  const stop = subscribe("/events", "", { event: (event) => ENDS.has(event.kind) && soon(), gap: soon });
  const unheard = whenConnection(date);
  return () => (stop(), unheard(), soon.cancel());
}

/** Whether what was measured then may not be how things stand now. */
function isOld(asOf) {
  return asOf && (["away", "reconnecting"].includes(connection().name) || Date.now() - new Date(asOf) > FRESH);
}

/** New charts in the place of the old ones; a table that was opened stays open. */
function redraw(charts, wanted) {
  const opened = [...charts.querySelectorAll("details")].map((one) => one.open);
  fill(charts, wanted);
  charts.querySelectorAll("details").forEach((one, at) => (one.open = opened[at] ?? false));
}

function drawn(series) {
  const { at } = series;
  const count = (value) => short(value);
  const most = (values) => Math.max(...values);
  const seconds = (value) => span(value < 10 ? Number(value.toFixed(1)) : Math.round(value));
  const one = (name, values, kind) => ({ name, values: values ?? at.map(() => null), kind });
  return [
    chart("Tasks that ended", at, OUTCOMES.map(([name, kind]) => one(name, series[name], kind)), { bars: true, written: count }),
    chart("Depth: tasks that could start at once", at, [one("at most", series.depth, "a")], { whole: most, written: count }),
    chart("Oldest task that could start", at, [one("at most", series.oldest_seconds, "c")], { whole: most, written: seconds }),
    chart("Wait before the first attempt, median", at, [one("wait p50", series.wait_p50, "a")], { written: seconds }),
    chart("Run, median", at, [one("run p50", series.run_p50, "c")], { written: seconds }),
    chart("Cost, as far as agents told", at, [one("cost", series.cost_usd, "a")], { bars: true, written: dollars }),
  ];
}

function summed({ total, dead_letters_now: dead }) {
  const now = total.now ?? {};
  const cost = total.cost_usd ?? {};
  return [
    [now.queued ?? "–", `queued${now.oldest_seconds ? `, oldest ${span(Math.floor(now.oldest_seconds))}` : ""}`],
    [now.running ?? "–", "running"],
    [total.ended, "ended"],
    [percent(total.failure_rate), "failed"],
    [total.wait_seconds ? span(total.wait_seconds.p50) : "–", "median wait"],
    [total.run_seconds ? span(total.run_seconds.p50) : "–", "median run"],
    [dollars(cost.sum), cost.sum !== null && cost.unknown ? `cost at least, ${cost.unknown} unknown` : "cost"],
    [dead ?? "–", dead === 1 ? "dead letter" : "dead letters"],
  ].map(([number, words]) => h("li", {}, h("strong", {}, number), ` ${words}`));
}

function percent(rate) {
  return rate === null || rate === undefined ? "–" : `${(100 * rate).toFixed(1)}%`;
}

const AGENT_COLUMNS = [
  ["Agent", (one) => h("a", { href: `#/tasks?agent=${encodeURIComponent(one.key)}` }, one.key)],
  ["Queued", (one) => one.now?.queued ?? "–", "number"],
  ["Running", (one) => one.now?.running ?? "–", "number"],
  ["Ended", (one) => one.ended, "number"],
  ["Failed", (one) => percent(one.failure_rate), "number"],
  ["Retried", (one) => percent(one.retry_rate), "number"],
  ["Wait p50", (one) => (one.wait_seconds ? span(one.wait_seconds.p50) : "–"), "number"],
  ["Run p50", (one) => (one.run_seconds ? span(one.run_seconds.p50) : "–"), "number"],
  ["Cost", (one) => (one.cost_usd?.sum === null || !one.cost_usd ? "–" : `${one.cost_usd.unknown ? "≥ " : ""}${dollars(one.cost_usd.sum)}`), "number"],
];
