// What an agent prints, as it comes: bounded, and following the end until its reader scrolls up.

import { fill, h } from "./dom.js";
import { printed } from "./plain.js";
import { bytes } from "./words.js";

const MOST = 400_000;
const NEAR = 24;
const ENCODER = new TextEncoder();

/** A view of one task's output: `element`, `take(pieces)` for {attempt, offset, text, left_out, whole}, and `ended()`.
 *
 * Pieces may come twice and in any order of history and news; each is shown once. Another attempt's is a text of its own.
 * `toWhole(attempt)` is called by who wants to read all that an attempt printed, of which only a part was told. */
export function outputView(toWhole, label = "what its agent printed") {
  const attempts = new Map();
  const text = h("pre", { class: "output", tabindex: "0", role: "region", "aria-label": label });
  const chooser = h("select", { "aria-label": "Attempt", hidden: true, onchange: () => choose(Number(chooser.value)) });
  const size = h("span", { class: "dim" }, "reading …");
  const down = h("button", { type: "button", class: "quiet", hidden: true, onclick: toEnd }, "↓ to the end");
  const bar = h("div", { class: "bar" }, chooser, size, down);
  const element = h("div", { class: "theirs outputs" }, h("p", { class: "caption" }, label), bar, text);
  let shown = 0;
  let following = true;
  let frame = 0;
  let over = false;

  text.addEventListener("scroll", () => {
    following = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR;
    down.hidden = following;
  });

  function toEnd() {
    following = true;
    down.hidden = true;
    text.scrollTop = text.scrollHeight;
  }

  function take(pieces) {
    for (const piece of pieces) {
      if (!piece.text && !piece.left_out && !piece.whole) continue;
      const known = attempts.get(piece.attempt) ?? begun(piece.attempt);
      if (!known.seen.has(piece.offset)) add(known, piece);
    }
    if (!attempts.size) size.textContent = none();
    else frame ||= requestAnimationFrame(draw);
  }

  const none = () => (over ? "Nothing was printed." : "Nothing was printed yet.");

  /** Nothing more will be printed. */
  function ended() {
    over = true;
    if (!attempts.size) size.textContent = none();
  }

  function begun(attempt) {
    const known = { seen: new Set(), list: [], length: 0, end: 0, cut: false, late: true };
    attempts.set(attempt, known);
    const numbers = [...attempts.keys()].sort((one, other) => one - other);
    fill(chooser, numbers.map((number) => h("option", { value: number }, `attempt ${number}`)));
    chooser.hidden = numbers.length < 2;
    if (attempt === numbers.at(-1)) shown = attempt;
    chooser.value = shown;
    return known;
  }

  function choose(attempt) {
    shown = attempt;
    attempts.get(attempt).late = true;
    following = true;
    draw();
  }

  function draw() {
    frame = 0;
    const known = attempts.get(shown);
    if (known.late) redraw(known);
    const fresh = known.list.filter((piece) => !piece.node);
    for (const piece of fresh) piece.node = pieceShown(piece, () => toWhole(shown));
    text.append(...fresh.map((piece) => piece.node));
    const cut = known.cut ? ", its last part is shown" : "";
    fill(size, `attempt ${shown}, ${known.end ? bytes(known.end) : "nothing was printed"}${cut}`);
    if (following) toEnd();
  }

  function redraw(known) {
    known.late = false;
    known.list.sort((one, other) => one.offset - other.offset);
    for (const piece of known.list) piece.node = null;
    text.replaceChildren();
  }

  return { element, take, ended };
}

/** Take a piece, and let the oldest go when there is too much. */
function add(known, { offset, text, left_out: leftOut, whole }) {
  const piece = { offset, text: text ?? "", leftOut: leftOut ?? 0, whole, node: null };
  known.seen.add(offset);
  known.late ||= known.list.length > 0 && offset < known.list.at(-1).offset;
  known.list.push(piece);
  known.length += piece.text.length;
  known.end = Math.max(known.end, offset + ENCODER.encode(piece.text).length);
  while (known.length > MOST && known.list.length > 1) {
    const gone = known.list.shift();
    known.length -= gone.text.length;
    known.cut = true;
    gone.node?.remove();
  }
}

function pieceShown({ text, leftOut, whole }, toWhole) {
  const read = () => h("button", { type: "button", class: "quiet", onclick: toWhole }, "the artifact transcript");
  const rest = whole ? ["left out; the whole is in ", read()] : "left out …\n";
  const gap = leftOut ? h("em", { class: "left-out" }, `\n… ${bytes(leftOut)} `, rest) : null;
  return h("span", {}, gap, printed(text));
}

/** What an event of the log of output holds, null for any other. */
export function pieceOf(event) {
  if (event.kind !== "output") return null;
  const data = event.data ?? {};
  const offset = (data.whole ? data.bytes : data.offset) ?? 0;
  return { attempt: event.attempt ?? 1, offset, text: data.text ?? "", left_out: data.left_out ?? 0, whole: Boolean(data.whole) };
}
