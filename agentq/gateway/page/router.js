// Which view is shown: the part of the address behind #.

import { newKey } from "./api.js";
import { focus } from "./dom.js";
import { plainly } from "./plain.js";

const routes = [];
/** How far down each entry of the tab's history was read. */
const places = new Map();
let entry = null;
let leave = () => {};

/** Show `render(root, params, leaving)` at a pattern such as "/tasks/:id".
 *
 * `params` holds the pattern's names, and what stands behind ? as `params.query` (URLSearchParams). `leaving` is an
 * AbortSignal that fires when the view is left; render may also return, or resolve to, a function that is called then. */
export function route(pattern, render) {
  const names = [];
  const source = pattern.replace(/:(\w+)/g, (_, name) => (names.push(name), "([^/]+)"));
  routes.push({ pattern, names, matcher: new RegExp(`^${source}$`), render });
}

/** The address of a view, for links: to`/tasks/${id}`. */
export function to(parts, ...values) {
  return `#${String.raw({ raw: parts }, ...values.map((value) => encodeURIComponent(value)))}`;
}

export function go(address) {
  location.hash = address;
}

/** What the page is called while this view is shown. */
export function title(text) {
  document.title = text ? `${plainly(text)} · agentq` : "agentq";
}

/** Say what is filtered in the address, without showing the view anew. */
export function keepQuery(query) {
  const [where] = location.hash.slice(1).split("?");
  const known = [...query].filter(([, value]) => value);
  const text = known.length ? `?${new URLSearchParams(known)}` : "";
  history.replaceState(history.state, "", `#${where || "/"}${text}`);
}

/** Show what the address says, now and whenever it changes. */
export function start(root, missing) {
  routes.push({ pattern: "*", names: [], matcher: /.*/, render: missing, last: true });
  start.root = root;
  history.scrollRestoration = "manual"; // a browser restores before there is anything to scroll
  addEventListener("hashchange", () => show(true));
  show();
}

/** Show the view again from its beginning. */
export function show(moved = false) {
  const [where, query] = (location.hash.slice(1) || "/").split("?");
  const found = [...routes].sort((one, other) => (one.last ?? 0) - (other.last ?? 0)).find((one) => one.matcher.test(where));
  if (entry) places.set(entry, scrollY);
  leave();
  start.root.replaceChildren();
  const params = { query: new URLSearchParams(query ?? "") };
  const values = found.matcher.exec(where).slice(1);
  found.names.forEach((name, at) => (params[name] = decoded(values[at])));
  leave = entered(found, params);
  mark(where);
  const known = history.state?.entry;
  entry = known ?? newKey();
  if (!known) history.replaceState({ entry }, "");
  if (moved) land(start.root, places.get(entry) ?? 0);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function entered(found, params) {
  const leaving = new AbortController();
  const cleanups = [];
  const keep = (cleanup) => {
    if (typeof cleanup !== "function") return;
    if (leaving.signal.aborted) cleanup();
    else cleanups.push(cleanup);
  };
  const failed = (error) => error?.name === "AbortError" || console.error(error);
  try {
    Promise.resolve(found.render(start.root, params, leaving.signal)).then(keep, failed);
  } catch (error) {
    failed(error);
  }
  return () => {
    leaving.abort();
    cleanups.forEach((cleanup) => cleanup());
  };
}

/** The link of the navigation that is the current page. */
function mark(where) {
  for (const link of document.querySelectorAll("nav a[href^='#']")) {
    const at = link.getAttribute("href").slice(1);
    const current = at === "/" ? where === "/" : where === at || where.startsWith(`${at}/`);
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Bring who navigates by keyboard or ear to the new view's heading, and who comes back to where they were. */
function land(root, top) {
  scrollTo(0, 0);
  if (top) comeBack(root, top);
  if (root.contains(document.activeElement)) return; // the view has put it where it should be
  focus(root.querySelector("h1") ?? root);
}

/** Scroll down as soon as there is enough to, unless somebody scrolls first. */
function comeBack(root, top) {
  const given = new AbortController();
  const observer = new ResizeObserver(() => {
    if (document.documentElement.scrollHeight - innerHeight < top) return;
    given.abort();
    scrollTo(0, top);
  });
  given.signal.addEventListener("abort", () => observer.disconnect());
  for (const kind of ["wheel", "pointerdown", "keydown", "hashchange"]) {
    addEventListener(kind, () => given.abort(), { signal: given.signal });
  }
  observer.observe(root);
}
