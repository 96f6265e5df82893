// Questions that stop everything else: <dialog>, which keeps the focus inside, ends with Esc, and gives it back.

import { focus, h } from "./dom.js";
import { limited } from "./limits.js";

/** Ask before something is done. Resolves to null when it was not wanted, else to what was written ("" if nothing).
 *
 * `reason` is the label of a text to write, `required` that it must not be empty, `doing` what the button says. */
export function confirmed(title, { text, doing, danger = false, reason = null, required = false }) {
  return new Promise((resolve) => {
    const field = reason && h("textarea", { rows: 3, id: "dialog-reason", required });
    let answer = null;
    const form = h(
      "form",
      {
        method: "dialog",
        onsubmit: () => (answer = field ? field.value.trim() : ""),
      },
      h("h2", { id: "dialog-title" }, title),
      text && h("p", { id: "dialog-text" }, text),
      field && h("label", { for: "dialog-reason" }, reason),
      field,
      field && limited(field, 1000),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Back"),
        h("button", { type: "submit", class: danger ? "danger" : "primary" }, doing),
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", "aria-describedby": text && "dialog-text" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      // what opened it may be gone by now
      if (document.activeElement === document.body) focus(document.querySelector("main h1"));
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
