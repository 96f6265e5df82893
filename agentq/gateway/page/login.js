// The question for a token, when the gateway wants one.

import { fill, h } from "./dom.js";
import { forgetToken, token, useToken } from "./api.js";

/** Ask for a token in the place of the view; `entered` is called once one was given. */
export function askForToken(root, entered) {
  const had = token() !== "";
  const field = h("input", {
    id: "token",
    type: "password",
    autocomplete: "current-password",
    required: true,
    spellcheck: "false",
    "aria-describedby": "token-about",
  });
  const remember = h("input", { type: "checkbox", id: "remember" });
  const submit = (event) => {
    event.preventDefault();
    useToken(field.value.trim(), remember.checked);
    entered();
  };
  forgetToken();
  fill(
    root,
    h(
      "form",
      { class: "login card", onsubmit: submit },
      h("h1", {}, "A token, please"),
      had && h("p", { class: "problem", role: "alert" }, "The gateway does not know this token (any more)."),
      h("label", { for: "token" }, "Token"),
      field,
      h("label", { class: "check", for: "remember" }, remember, "Remember on this device"),
      h(
        "p",
        { id: "token-about", class: "dim" },
        "It is kept in this tab alone otherwise. Whoever runs the gateway makes one with",
      ),
      h("pre", {}, h("code", {}, "agentq token new NAME --role observer --role coordinator --role approver")),
      h("button", { type: "submit", class: "primary" }, "Go on"),
    ),
  );
  field.focus();
}
