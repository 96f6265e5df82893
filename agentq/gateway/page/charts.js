// Charts in SVG: a line or bars over time, each with the same figures as a table for those who do not see it.

import { h, svg } from "./dom.js";

const WIDTH = 400;
const HEIGHT = 140;
const ROWS = 24;

/** A chart of `series` [{name, values, kind: "a"|"b"|"c"|"d"}] over the moments `at`; null is unknown and leaves a hole.
 *
 * `bars` stacks them instead of drawing lines. `whole` makes one value of those of a longer time, which are all known:
 * the sum of bars, else the last. `written` turns a value into words. */
export function chart(name, at, series, { bars = false, whole = bars ? sum : last, written = String } = {}) {
  const known = series.flatMap((one) => knownOf(one.values));
  const said = series.map((one) => `${one.name} ${folded(one.values, whole, written) ?? "unknown"}`).join(", ");
  const summary = h("p", { class: "dim chart-now" }, said);
  if (!known.length) return figure(name, h("p", { class: "dim" }, "Nothing is known of this time."), null, null);
  const top = ceiling(bars ? stacked(series, at.length) : Math.max(...known));
  const steps = Math.max(1, at.length - (bars ? 0 : 1));
  const scale = { x: (index) => (index * WIDTH) / steps, y: (value) => (1 - value / top) * HEIGHT };
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name}: ${said}` },
    grid(scale.y(0), scale.y(top / 2), scale.y(top)),
    bars ? barsOf(series, at, scale, written) : series.map((one) => line(one, scale)),
  );
  // The drawing is stretched to its place, what is written beside it is not.
  const plot = h("div", { class: "plot" }, drawing, values(top, written), moments(at, (index) => (index + (bars ? 1 : 0)) / steps));
  return figure(name, [series.length > 1 && legend(series), plot], summary, figuresTable(name, at, series, (values) => folded(values, whole, written)));
}

function figure(name, drawing, summary, numbers) {
  return h("figure", { class: "chart card" }, h("figcaption", {}, name), summary, drawing, numbers);
}

function folded(values, whole, written) {
  const known = knownOf(values);
  return known.length ? written(whole(known)) : null;
}

function knownOf(values) {
  return values.filter((value) => value !== null && value !== undefined);
}

function sum(values) {
  return values.reduce((before, value) => before + value, 0);
}

function last(values) {
  return values.at(-1);
}

function stacked(series, count) {
  const sums = Array.from({ length: count }, (_, at) => sum(series.map((one) => one.values[at] ?? 0)));
  return Math.max(...sums);
}

/** The next round number: what the axis ends with. */
function ceiling(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= most);
}

function grid(...heights) {
  return heights.map((y) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
}

function values(top, written) {
  return [0, 0.5, 1].map((part) => tick("value", { bottom: percent(part) }, written(part * top)));
}

function moments(at, place) {
  const last = at.length - 1;
  const days = last > 0 && new Date(at[last]) - new Date(at[0]) > 36 * 3600 * 1000;
  const how = days ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  return [0, Math.floor(last / 2), last].map((index, number) =>
    tick(`moment ${["start", "middle", "end"][number]}`, { left: percent(place(index)) }, new Date(at[index]).toLocaleString([], how)),
  );
}

function tick(kind, style, text) {
  return h("span", { class: `tick ${kind}`, "aria-hidden": "true", style }, text);
}

function percent(part) {
  return `${(100 * part).toFixed(2)}%`;
}

function line({ values, kind }, scale) {
  const runs = [[]];
  values.forEach((value, index) => {
    if (value === null || value === undefined) runs.push([]);
    else runs.at(-1).push([scale.x(index), scale.y(value)]);
  });
  return runs.filter((run) => run.length).map((run) => {
    const [[x, y]] = run;
    if (run.length === 1) return svg("path", { class: `dot series-${kind}`, d: `M${x} ${y}h.01` });
    return svg("polyline", { class: `line series-${kind}`, points: run.map((point) => point.map((one) => one.toFixed(1)).join(",")).join(" ") });
  });
}

function barsOf(series, at, scale, written) {
  const width = Math.max(1, scale.x(1) - scale.x(0) - 1.5);
  return at.map((moment, index) => {
    let below = 0;
    return series.map(({ name, values, kind }) => {
      const value = values[index] ?? 0;
      if (!value) return null;
      const [y, base] = [scale.y(below + value), scale.y(below)];
      below += value;
      const what = svg("title", {}, `${new Date(moment).toLocaleString()}: ${name} ${written(value)}`);
      return svg("rect", { class: `bar series-${kind}`, x: scale.x(index), y, width, height: Math.max(1, base - y) }, what);
    });
  });
}

function legend(series) {
  return h("ul", { class: "legend" }, series.map((one) => h("li", {}, h("span", { class: `key series-${one.kind}`, "aria-hidden": "true" }), one.name)));
}

/** No more than so many rows: each tells the whole of its time. */
function figuresTable(name, at, series, told) {
  const step = Math.ceil(at.length / ROWS);
  const shown = at.map((_, index) => index).filter((index) => (at.length - 1 - index) % step === 0).reverse();
  const cell = (values) => h("td", { class: "number" }, told(values) ?? "–");
  return h(
    "details",
    {},
    h("summary", {}, "As a table"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": `${name} as a table` },
      h(
        "table",
        {},
        h("caption", { class: "unseen" }, name),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "At"), series.map((one) => h("th", { scope: "col", class: "number" }, one.name)))),
        h("tbody", {}, shown.map((index) => h("tr", {}, h("th", { scope: "row" }, new Date(at[index]).toLocaleString()), series.map((one) => cell(one.values.slice(Math.max(0, index - step + 1), index + 1)))))),
      ),
    ),
  );
}
