// What happened, said once, in a corner and to screen readers; errors stay until they are dismissed.

import { h } from "./dom.js";
import { whenBack } from "./live.js";

const SECONDS = 6;
/** Where the API sends its reader, and who looks at the page. */
const ELSEWHERE = {
  "See: GET /api/tasks": ["#/tasks", "the tasks"],
  "See: GET /api/tasks?plans=true": ["#/plans", "the plans"],
  "See: GET /api/dead-letters": ["#/dead-letters", "the dead letters"],
};
const TASK = /^See: GET \/api\/tasks\/([\w.-]+)$/;
const MOST = 4;

/** Say that something was done. */
export function say(text) {
  show(h("p", {}, text), "status");
}

/** Say what went wrong: title, detail and hint of a Problem, or any error's message. */
export function complain(error, doing = "") {
  if (error?.name === "AbortError") return;
  const title = error.title ?? "Something broke in this page";
  show(
    [
      h("p", {}, h("strong", {}, doing ? `${doing}: ` : "", title)),
      (error.detail ?? error.message) && h("p", {}, error.detail ?? error.message),
      hinted(error.hint),
    ],
    "alert",
  );
  if (error.status === undefined) console.error(error);
}

/** A block that shows a Problem in the place of what could not be shown. Of a gateway that is away it speaks until that
 * is back: then what could not be read is read again. */
export function problem(error, again) {
  const hint = error.isAway && again ? "It is asked again as soon as it is back." : error.hint;
  const element = h(
    "div",
    { class: "problem", role: "alert" },
    h("p", {}, h("strong", {}, error.title ?? "Something broke in this page")),
    (error.detail ?? error.message) && h("p", {}, error.detail ?? error.message),
    hinted(hint),
    again && h("button", { type: "button", onclick: again }, "Try again"),
  );
  if (error.isAway) whenBack(() => element.isConnected && (again ? again() : element.remove()));
  return element;
}

function hinted(hint) {
  const id = TASK.exec(hint)?.[1];
  const [href, words] = id ? [`#/tasks/${id}`, id] : (ELSEWHERE[hint] ?? []);
  return hint && h("p", { class: "hint" }, href ? ["See: ", h("a", { href }, words)] : hint);
}

function show(content, role) {
  const toast = h("div", { class: `toast ${role}` }, h("div", {}, content));
  const dismiss = () => toast.remove();
  toast.append(h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: dismiss }, "×"));
  const shelf = document.getElementById(role === "alert" ? "alerts" : "statuses");
  shelf.append(toast);
  while (shelf.children.length > MOST) shelf.firstElementChild.remove();
  if (role === "status") setTimeout(dismiss, SECONDS * 1000);
}
