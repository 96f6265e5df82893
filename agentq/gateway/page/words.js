// How states, times and amounts are written, and how an agent's own words are set apart.

import { h } from "./dom.js";
import { plainly } from "./plain.js";

const STATES = {
  queued: ["◌", "queued"],
  delayed: ["◷", "delayed"],
  dependencies: ["⋯", "waits for tasks"],
  approval: ["!", "needs approval"],
  lease: ["?", "worker silent"],
  moved: ["→", "moved"],
  pending: ["◌", "pending"],
  processing: ["▶", "processing"],
  completed: ["✓", "completed"],
  failed: ["✗", "failed"],
  cancelled: ["⊘", "cancelled"],
  expired: ["∅", "expired"],
};

/** The words for where a task stands: those of what it waits for, when it waits. */
export function stateWords(state, waitsFor) {
  return (STATES[waitsFor ?? state] ?? ["·", waitsFor ?? state ?? "unknown"])[1];
}

export function stateSign(state, waitsFor) {
  return (STATES[waitsFor ?? state] ?? ["·"])[0];
}

/** A state by colour, sign and words. */
export function badge(state, waitsFor) {
  const name = STATES[waitsFor ?? state] ? (waitsFor ?? state) : "unknown";
  return h(
    "span",
    { class: `badge is-${name}`, dataset: { state: state ?? "", waitsFor: waitsFor ?? "" } },
    h("span", { class: "sign", "aria-hidden": "true" }, stateSign(state, waitsFor)),
    stateWords(state, waitsFor),
  );
}

/** True once a task cannot change any more. */
export function hasEnded(state) {
  return ["completed", "failed", "cancelled", "expired"].includes(state);
}

const STEPS = [
  [86_400, "d", 3600, "h"],
  [3600, "h", 60, "m"],
  [60, "m", 1, "s"],
];

/** Seconds in a few characters: 4s, 2m10s, 3h05m, 2d4h. */
export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const whole = Math.max(0, seconds);
  if (whole < 10 && whole % 1) return `${whole.toFixed(1)}s`;
  for (const [size, unit, less, lesser] of STEPS) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / less);
    return `${Math.floor(whole / size)}${unit}${rest ? `${String(rest).padStart(2, "0")}${lesser}` : ""}`;
  }
  return `${Math.floor(whole)}s`;
}

/** A moment, as how long ago it was (or how long it is until then); it keeps up with time. */
export function ago(iso, { bare = false } = {}) {
  if (!iso) return h("span", { class: "dim" }, "–");
  const at = new Date(iso);
  const time = h("time", { datetime: iso, title: at.toLocaleString(), dataset: { age: bare ? "bare" : "ago" } });
  time.textContent = aged(at, bare);
  return time;
}

function aged(at, bare) {
  const seconds = (Date.now() - at) / 1000;
  if (seconds < -1) return `in ${span(Math.round(-seconds))}`;
  const text = span(Math.floor(Math.max(0, seconds)));
  return bare ? text : `${text} ago`;
}

/** Write all ages anew. */
export function freshen(root = document) {
  for (const time of root.querySelectorAll("time[data-age]")) {
    const text = aged(new Date(time.dateTime), time.dataset.age === "bare");
    if (time.textContent !== text) time.textContent = text;
  }
}

/** A time of day, with the date when it is not today's. */
export function clock(iso) {
  const at = new Date(iso);
  const today = at.toDateString() === new Date().toDateString();
  const text = today ? at.toLocaleTimeString() : at.toLocaleString();
  return h("time", { datetime: iso, title: at.toISOString() }, text);
}

const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  const step = count > 0 ? Math.min(SIZES.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  const value = count / 1024 ** step;
  return `${step && value < 10 ? value.toFixed(1) : Math.round(value)} ${SIZES[step]}`;
}

/** A number in a few characters. */
export function short(number) {
  if (number === null || number === undefined) return "–";
  return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(number);
}

export function dollars(amount) {
  if (amount === null || amount === undefined) return "–";
  return `$${amount > 0 && amount < 0.1 ? amount.toFixed(4) : amount.toFixed(2)}`;
}

/** Words that an agent, or whoever asked, wrote: shown as they are, and marked as theirs. */
export function theirWords(text, whose = "an agent's words", props = {}) {
  return h(
    "figure",
    { ...props, class: `theirs ${props.class ?? ""}` },
    h("figcaption", {}, whose),
    h("pre", { tabindex: "0", "aria-label": whose }, plainly(text)),
  );
}

/** What the eye sees from where it stands, for who only hears it: which of those that look the same. */
export function unseen(text) {
  return h("span", { class: "unseen" }, ` ${text}`);
}

/** Pairs as a list of terms; what is null is left out. */
export function facts(...pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== false && value !== "");
  return h("dl", { class: "facts" }, known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** What is said where there is nothing: and the next thing to do. */
export function nothing(text, ...commands) {
  return h("div", { class: "empty" }, h("p", {}, text), commands.map((line) => h("pre", {}, h("code", {}, line))));
}
