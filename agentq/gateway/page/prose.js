// An agent's or a person's text as paragraphs and blocks of code: text nodes throughout, whatever it holds.

import { h } from "./dom.js";
import { plainly } from "./plain.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+.#-]*)\s*$/;

/** Shows a text in an element; one that only grows costs no more than its last block. */
export class Prose {
  #element;
  #shown = "";
  #settled = 0;

  constructor(element) {
    this.#element = element;
  }

  show(text) {
    if (text === this.#shown) return;
    if (!text.startsWith(this.#shown)) {
      this.#element.replaceChildren();
      this.#settled = 0;
    } else this.#element.lastElementChild?.remove();
    const found = blocks(text.slice(this.#settled));
    this.#element.append(...found.map(drawn));
    this.#settled += found.at(-1)?.start ?? 0;
    this.#shown = text;
  }
}

/** The blocks of a text: { start, code: null or its language, text }. A fence that nobody closed goes on to the end. */
export function blocks(text) {
  const found = [];
  let open = null;
  let at = 0;
  for (const line of text.split("\n")) {
    open = continued(found, open, line, at);
    at += line.length + 1;
  }
  return found;
}

function continued(found, open, line, at) {
  const fence = FENCE.exec(line);
  if (open?.fence) {
    if (fence?.[1].startsWith(open.fence) && !fence[2]) return null;
    open.lines.push(line);
    return open;
  }
  if (fence) return begun(found, { start: at, fence: fence[1], language: fence[2], lines: [] });
  if (!line.trim()) return null;
  if (!open) return begun(found, { start: at, fence: null, lines: [line] });
  open.lines.push(line);
  return open;
}

function begun(found, block) {
  found.push(block);
  return block;
}

function drawn({ fence, language, lines }) {
  const text = plainly(lines.join("\n"));
  if (!fence) return h("p", {}, inline(text));
  const label = language ? `code in ${language}` : "code";
  return h("pre", { tabindex: "0", role: "region", "aria-label": label }, h("code", {}, text));
}

/** Between two backquotes of one line is code. */
function inline(text) {
  return text.split(/`([^`\n]+)`/).map((part, at) => (at % 2 ? h("code", {}, part) : part));
}
