// A patch, coloured, with what was added and taken away told by sign as well.

import { h } from "./dom.js";
import { plainly } from "./plain.js";

const MOST = 4000;

/** A patch as one block for each file; long ones are cut, and say so. Text that is no patch is shown as it is. */
export function diff(text) {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  const files = split(lines.slice(0, MOST));
  const left = lines.length - MOST;
  return h(
    "div",
    { class: "diff" },
    files.map(file),
    left > 0 && h("p", { class: "dim" }, `… ${left} more lines: save the patch to see all of it`),
  );
}

function split(lines) {
  const files = [];
  for (const line of lines) {
    if (line.startsWith("diff --git ") || files.length === 0) files.push([]);
    files.at(-1).push(line);
  }
  return files;
}

function file(lines) {
  const counts = { add: 0, del: 0 };
  let inHunk = false;
  const shown = lines.map((line) => {
    if (line.startsWith("@@")) inHunk = true;
    const kind = kindOf(line, inHunk);
    if (kind in counts) counts[kind] += 1;
    return h("span", { class: `line ${kind}` }, plainly(line), "\n");
  });
  return h(
    "details",
    { open: lines.length <= 600 },
    h(
      "summary",
      {},
      h("span", { class: "mono" }, nameOf(lines)),
      h("span", { class: "dim" }, ` ${counts.add} added, ${counts.del} removed`),
    ),
    h("pre", { tabindex: "0", "aria-label": `Changes of ${nameOf(lines)}` }, shown),
  );
}

function kindOf(line, inHunk) {
  if (line.startsWith("@@")) return "hunk";
  if (!inHunk) return "head";
  if (line.startsWith("+")) return "add";
  if (line.startsWith("-")) return "del";
  return "same";
}

function nameOf(lines) {
  const named = lines.find((line) => line.startsWith("+++ ") && line !== "+++ /dev/null");
  const removed = lines.find((line) => line.startsWith("--- "));
  const git = lines[0]?.match(/^diff --git a\/(.*) b\//);
  return plainly(named?.slice(4).replace(/^b\//, "") ?? git?.[1] ?? removed?.slice(4) ?? "a text");
}
