// An answer while it is written: pieces of text, each with the offset at which it stands.

import { fill, h } from "./dom.js";
import { plainly } from "./plain.js";

/** A view of the newest attempt's answer: `element`, and `take(event)` for events of kind "reply". */
export function replyView() {
  const text = h("pre", { tabindex: "0", "aria-label": "The answer so far" });
  const element = h(
    "section",
    { hidden: true },
    h("h2", {}, "The answer as it is written"),
    h("figure", { class: "theirs" }, h("figcaption", {}, "an agent's words"), text),
  );
  let attempt = 0;
  let pieces = new Map();

  function take(event) {
    const number = event.attempt ?? 1;
    if (number < attempt) return;
    if (number > attempt) {
      attempt = number;
      pieces = new Map();
    }
    pieces.set(event.data?.offset ?? 0, event.data?.text ?? "");
    const ordered = [...pieces].sort(([one], [other]) => one - other);
    fill(text, plainly(ordered.map(([, said]) => said).join("")));
    element.hidden = false;
  }

  return { element, take };
}
