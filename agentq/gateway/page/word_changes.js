// What becomes of a text: first by lines, then by words where lines were replaced by others.

import { h } from "./dom.js";
import { plainly } from "./plain.js";

const MOST = 4_000_000;
const SAID = { added: "added:", removed: "removed:" };

/** The steps from one text to the other: [{ kind: "same" | "removed" | "added", text }]. */
export function changes(before, after) {
  const steps = compared(before.split(/(?<=\n)/), after.split(/(?<=\n)/));
  return joined(steps.flatMap((step, at) => finer(step, steps[at + 1], steps[at - 1])));
}

/** Space between two changes belongs to both, so that they read as one. */
function bridged(steps) {
  const isBridge = (step, at) => step.kind === "same" && !step.text.trim() && at > 0 && at < steps.length - 1;
  const both = (text) => [{ kind: "removed", text }, { kind: "added", text }];
  return joined(steps.flatMap((step, at) => (isBridge(step, at) ? both(step.text) : [step])));
}

/** Lines that were replaced by other lines are looked at by words. */
function finer(step, next, last) {
  if (step.kind === "removed" && next?.kind === "added") return bridged(compared(words(step.text), words(next.text)));
  if (step.kind === "added" && last?.kind === "removed") return [];
  return [step];
}

function words(text) {
  return text.match(/\s+|[^\s]+/g) ?? [];
}

function compared(before, after) {
  let head = 0;
  while (head < Math.min(before.length, after.length) && before[head] === after[head]) head += 1;
  let tail = 0;
  const least = Math.min(before.length, after.length) - head;
  while (tail < least && before.at(-1 - tail) === after.at(-1 - tail)) tail += 1;
  const middle = [before.slice(head, before.length - tail), after.slice(head, after.length - tail)];
  const same = (list) => list.map((text) => ({ kind: "same", text }));
  return joined([...same(before.slice(0, head)), ...between(...middle), ...same(before.slice(before.length - tail))]);
}

/** By the longest common sequence; what is too long for that is replaced as a whole. */
function between(before, after) {
  const whole = [...before.map((text) => ({ kind: "removed", text })), ...after.map((text) => ({ kind: "added", text }))];
  if (!before.length || !after.length || before.length * after.length > MOST) return whole;
  const wide = after.length + 1;
  const longest = lengths(before, after, wide);
  const steps = [];
  let i = 0;
  let j = 0;
  while (i < before.length && j < after.length) {
    if (before[i] === after[j]) steps.push({ kind: "same", text: before[(j++, i++)] });
    else if (longest[(i + 1) * wide + j] >= longest[i * wide + j + 1]) steps.push({ kind: "removed", text: before[i++] });
    else steps.push({ kind: "added", text: after[j++] });
  }
  const rest = (list, kind) => list.map((text) => ({ kind, text }));
  return [...steps, ...rest(before.slice(i), "removed"), ...rest(after.slice(j), "added")];
}

function lengths(before, after, wide) {
  const found = new Uint32Array((before.length + 1) * wide);
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = after.length - 1; j >= 0; j -= 1) {
      const here = i * wide + j;
      found[here] = before[i] === after[j] ? found[here + wide + 1] + 1 : Math.max(found[here + wide], found[here + 1]);
    }
  }
  return found;
}

/** Neighbours of one kind as one; between two changes, a removal comes before an addition. */
function joined(steps) {
  const found = [];
  for (const { kind, text } of steps) {
    const same = found.findLast((one) => one.kind === kind);
    const near = same === found.at(-1) || (same && kind !== "same" && same === found.at(-2) && found.at(-1).kind !== "same");
    if (same && near) same.text += text;
    else if (kind === "removed" && found.at(-1)?.kind === "added") found.splice(-1, 0, { kind, text });
    else found.push({ kind, text });
  }
  return found;
}

/** A change as it is read, struck out and underlined, and said to who listens. */
export function shownChange(before, after) {
  const steps = changes(before, after).map(({ kind, text }) => {
    if (kind === "same") return plainly(text);
    const aloud = h("span", { class: "unseen" }, `${SAID[kind]} `);
    return h(kind === "added" ? "ins" : "del", {}, aloud, plainly(text));
  });
  return h("div", { class: "word-changes" }, steps);
}
