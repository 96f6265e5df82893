// Elements without markup: whatever a text holds, it becomes a text node and nothing else.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Of `props`, functions named on… listen, `class` and `dataset` are what they say, true and false set
 * or leave out an attribute, null and undefined leave it out. Children: nodes, texts, numbers, lists; null is nothing. */
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function svg(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(element, name, value);
  element.append(...nodes(children));
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on") && typeof value === "function") listen(element, name.slice(2), value);
  else if (name === "dataset") Object.assign(element.dataset, value);
  else if (name === "value") element.value = value;
  else if (name === "style") for (const [what, how] of Object.entries(value)) element.style.setProperty(what, how);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/** What each element does at which event: one that is kept can so be given what its newer twin would have done. */
const acts = new WeakMap();

function listen(element, kind, act) {
  const known = acts.get(element) ?? {};
  acts.set(element, known);
  if (!(kind in known)) {
    element.addEventListener(kind, (event) => {
      if (kind === "click" && element.getAttribute("aria-disabled") === "true") return;
      acts.get(element)[kind]?.(event);
    });
  }
  known[kind] = act;
}

/** Let buttons do nothing for a while; disabled ones would lose the focus. */
export function busy(buttons, is = true) {
  for (const button of buttons) {
    if (is) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((one) => one !== null && one !== undefined && one !== false)
    .map((one) => (one instanceof Node ? one : document.createTextNode(String(one))));
}

/** Put these children in the place of all that an element holds; the focus goes to what is called the same. */
export function fill(element, ...children) {
  return minding(element, () => element.replaceChildren(...nodes(children)));
}

/** The same, but what is alike stays the same nodes, and so do focus and selection in it. */
export function renew(element, ...children) {
  return minding(element, () => bring(element, nodes(children)));
}

function bring(element, wanted) {
  wanted.forEach((node, at) => {
    const there = [...element.childNodes].slice(at);
    const same = there.find((one) => one.isEqualNode(node));
    if (same) {
      while (element.childNodes[at] !== same) element.childNodes[at].remove();
      adopt(same, node);
    } else if (there.length && isAlike(there[0], node) && !wanted.slice(at + 1).some((one) => one.isEqualNode(there[0]))) {
      become(there[0], node);
    } else element.insertBefore(node, there[0] ?? null);
  });
  while (element.childNodes.length > wanted.length) element.lastChild.remove();
}

/** Whether a node may go on as another one: never a link as one to elsewhere, or a button as one that does something else. */
function isAlike(one, other) {
  if (one.nodeName !== other.nodeName) return false;
  if (one.nodeType === Node.TEXT_NODE) return true;
  return one.nodeName === "BUTTON" ? one.textContent === other.textContent : leadsTo(one) === leadsTo(other);
}

function leadsTo(element) {
  return (element.matches("a") ? element : element.querySelector("a"))?.getAttribute("href");
}

function become(node, other) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== other.data) node.data = other.data;
    return;
  }
  for (const { name } of [...node.attributes]) if (!other.hasAttribute(name)) node.removeAttribute(name);
  for (const { name, value } of other.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  actAs(node, other);
  bring(node, [...other.childNodes]);
}

/** Of two that look the same, let the one that stays do what the newer one would. */
function adopt(node, other) {
  if (node === other) return;
  actAs(node, other);
  other.childNodes.forEach((child, at) => adopt(node.childNodes[at], child));
}

function actAs(node, other) {
  for (const kind of Object.keys(acts.get(node) ?? {})) acts.get(node)[kind] = undefined;
  for (const [kind, act] of Object.entries(acts.get(other) ?? {})) listen(node, kind, act);
}

/** Bring a parent's children in line with `items`: known ones stay the same elements, so that focus and scroll stay; the
 * focus of one that goes, goes to the next.
 *
 * `make(item)` makes an element once, `change(element, item)` brings it up to date (also just after it was made). */
export function keyed(parent, items, key, make, change = () => {}) {
  minding(parent, () => {
    const wanted = new Set(items.map((item) => String(key(item))));
    const before = [...parent.children];
    const focused = before.findIndex((child) => child.contains(document.activeElement));
    for (const child of before) if (!wanted.has(child.dataset.key)) child.remove();
    const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
    let place = parent.firstElementChild;
    for (const item of items) {
      const name = String(key(item));
      const element = known.get(name) ?? make(item);
      element.dataset.key = name;
      change(element, item);
      if (element === place) place = place.nextElementSibling;
      else parent.insertBefore(element, place);
    }
    if (focused < 0 || before[focused].isConnected) return null;
    const near = [...before.slice(focused + 1), ...before.slice(0, focused).reverse()];
    return near.find((child) => child.isConnected)?.querySelector(USABLE);
  });
}

const USABLE = "a[href], summary, button, input, select, textarea, [tabindex]";

/** Change what an element holds without losing the focus: it goes back, else to what `change` answers, else to what is
 * called the same, else to the heading above. */
function minding(element, change) {
  const focused = element.contains(document.activeElement) && element !== document.activeElement ? document.activeElement : null;
  const next = change();
  if (!focused || (document.activeElement ?? document.body) !== document.body) return element;
  const name = called(focused);
  const twin = () => [...element.querySelectorAll(focused.tagName)].find((one) => called(one) === name);
  focus(focused.isConnected ? focused : (next || twin() || above(element)));
  return element;
}

function called(element) {
  return element.getAttribute("href") ?? element.textContent;
}

function above(element) {
  return element.closest("article") ?? document.querySelector("main h1");
}

/** Move the focus, also to what is no field and no link. */
export function focus(element) {
  if (element && !element.matches(USABLE)) element.setAttribute("tabindex", "-1");
  element?.focus({ preventScroll: true });
}

/** Call `act` once things are quiet for `wait` ms, at the latest `longest` ms after the first call. */
export function debounced(act, wait = 400, longest = 2000) {
  let timer = 0;
  let first = 0;
  const run = () => {
    timer = first = 0;
    act();
  };
  const call = () => {
    const now = performance.now();
    first ||= now;
    clearTimeout(timer);
    timer = setTimeout(run, Math.max(0, Math.min(wait, first + longest - now)));
  };
  call.cancel = () => {
    clearTimeout(timer);
    timer = first = 0;
  };
  return call;
}
