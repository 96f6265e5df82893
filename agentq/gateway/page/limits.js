// How long a text may be: a longer one is not cut, but says by how much it is too long, and is not sent.

import { h } from "./dom.js";

const written = new Intl.NumberFormat("en").format;

/** Let a field be sent with no more than `most` characters. Returns the element that says what is too much. */
export function limited(field, most) {
  const said = h("p", { id: `${field.id}-limit`, class: "limit", role: "status" });
  field.setAttribute("aria-describedby", [field.getAttribute("aria-describedby"), said.id].filter(Boolean).join(" "));
  const look = () => {
    const words = tooLong(length(field.value) - most, most);
    field.setCustomValidity(words);
    field.setAttribute("aria-invalid", String(words !== ""));
    if (said.textContent !== words) said.textContent = words;
  };
  field.addEventListener("input", look);
  look();
  return said;
}

function tooLong(over, most) {
  if (over <= 0) return "";
  return `This is ${written(over)} ${over === 1 ? "character" : "characters"} too long: it may have ${written(most)}.`;
}

/** Characters are code points, as the gateway counts them. */
function length(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
