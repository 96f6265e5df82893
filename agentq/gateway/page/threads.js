// The threads: what each is called, what was said last and who is writing; and a new one.

import { get, newKey } from "./api.js";
import { debounced, fill, h, keyed, renew } from "./dom.js";
import { subscribe } from "./live.js";
import { limited } from "./limits.js";
import { may } from "./me.js";
import { plainly } from "./plain.js";
import { go, title, to } from "./router.js";
import { send } from "./sending.js";
import { problem } from "./toasts.js";
import { ago, nothing } from "./words.js";

const TELLING = new Set(["thread_opened", "message_posted", "message_ended", "completed", "failed", "cancelled", "expired", "claimed", "attempt_ended"]);

/** The view of all threads. */
export function threads(root, _params, leaving) {
  title("Threads");
  const list = h("ol", { class: "threads" });
  const said = h("div", {}, h("p", { class: "dim", role: "status" }, "Fetching the threads…"));
  fill(root, h("h1", {}, "Threads"), may("coordinator") && beginning(), said, list);
  const fetch = async () => {
    try {
      const found = await get("threads", {}, leaving);
      fill(said, found.threads.length ? null : nothing("No thread has been begun yet."));
      keyed(list, found.threads, (one) => one.thread_id, () => h("li", { class: "card" }), drawn);
    } catch (error) {
      if (error.name !== "AbortError") fill(said, problem(error, fetch));
    }
  };
  const again = debounced(fetch, 200, 1000);
  addEventListener("agentq:refresh", again, { signal: leaving }); // nobody tells that a worker is gone while it wrote
  fetch();
  const reader = { event: ({ kind }) => TELLING.has(kind) && again(), gap: again, caughtUp: again };
  const unheard = subscribe("/events", "", reader);
  return () => {
    unheard();
    again.cancel();
  };
}

function drawn(element, { thread_id, title: name, by, created_at, last, writing, waiting }) {
  const text = last?.text?.trim() || null;
  renew(
    element,
    h("h2", {}, h("a", { href: to`/threads/${thread_id}` }, plainly(name))),
    text && h("p", { class: "last" }, h("strong", {}, last.author), " ", plainly(text)),
    writing?.length ? h("p", { class: "typing" }, dots(), isWriting(writing)) : null,
    waiting?.length ? h("p", { class: "dim" }, `waiting for ${waiting.join(", ")}`) : null,
    h("p", { class: "dim" }, last ? ["last message ", ago(last.at)] : ["begun by ", by, " ", ago(created_at)]),
  );
}

function dots() {
  return h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
}

function isWriting(names) {
  return `${names.join(", ")} ${names.length > 1 ? "are" : "is"} writing`;
}

/** A form that opens on demand: a title, and what it is about. */
function beginning() {
  const key = newKey();
  const name = h("input", { id: "thread-title", required: true, autocomplete: "off" });
  const about = h("textarea", { id: "thread-about", rows: 4 });
  const said = h("div");
  const begin = async (event) => {
    event.preventDefault();
    const description = about.value.trim();
    try {
      const begun = await send("threads", { title: name.value.trim(), ...(description && { description }) }, key);
      go(to`/threads/${begun.thread_id}`);
    } catch (error) {
      fill(said, problem(error));
    }
  };
  const form = h(
    "form",
    { onsubmit: begin },
    h("label", { for: "thread-title" }, "Title"),
    name,
    limited(name, 200),
    h("label", { for: "thread-about" }, "Description"),
    about,
    limited(about, 65_536),
    said,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Begin it")),
  );
  return h("details", { class: "card beginning", ontoggle: () => name.focus() }, h("summary", {}, "New thread"), form);
}
