// One thread, live: its description, its messages, and a place to write.

import { get, path } from "./api.js";
import { composer } from "./composer.js";
import { Description } from "./description.js";
import { debounced, fill, h, keyed } from "./dom.js";
import { subscribe } from "./live.js";
import { may } from "./me.js";
import { Message, outcome } from "./message.js";
import { plainly } from "./plain.js";
import { show, title } from "./router.js";
import { problem, say } from "./toasts.js";
import { ago } from "./words.js";

const NEAR = 120;

/** The view of one thread. */
export async function thread(root, { id }, leaving) {
  title("Thread");
  fill(root, h("p", { class: "dim", role: "status" }, "Fetching the thread…"));
  const [view, agents] = await fetched(root, id, leaving);
  if (!view) return undefined;
  const shown = new Thread(id, view, agents, leaving);
  fill(root, shown.element);
  return () => shown.leave();
}

async function fetched(root, id, leaving) {
  try {
    const asked = [get(path`threads/${id}`, {}, leaving), get("agents", {}, leaving).catch(() => ({ agents: [] }))];
    const [view, { agents }] = await Promise.all(asked);
    return [view, agents];
  } catch (error) {
    if (error.name === "AbortError") throw error;
    fill(root, h("h1", {}, "Thread"), problem(error, () => show()), h("p", {}, h("a", { href: "#/threads" }, "All threads")));
    return [];
  }
}

class Thread {
  #messages = new Map();
  #unread = 0;
  #fetching = null;
  #again = false;

  constructor(id, view, agents, leaving) {
    Object.assign(this, { id, agents, leaving });
    this.fetch = debounced(() => this.#fetch(), 80, 600);
    this.description = new Description(() => this.#fetch());
    this.list = h("ol", { class: "messages", "aria-label": "Messages" });
    this.spoken = h("div", { class: "unseen", role: "status", "aria-live": "polite" });
    this.below = h("button", { type: "button", class: "latest", hidden: true, onclick: () => this.#toEnd() }, "↓ Latest");
    this.heading = h("h1", {}, plainly(view.title));
    this.about = h("p", { class: "dim" }, h("a", { href: "#/threads" }, "Threads"), " · begun by ", view.by, " ", ago(view.created_at));
    this.element = h("div", { class: "thread" }, this.about, this.heading, this.description.element, this.list, this.spoken, this.below);
    if (may("coordinator")) this.#mayWrite();
    addEventListener("agentq:refresh", () => this.#refresh(), { signal: leaving });
    this.#show(view);
    this.#listen(view.cursor);
  }

  #mayWrite() {
    const posted = () => (fill(this.spoken, "Posted"), this.#fetch());
    this.composer = composer(this.id, () => this.agents, posted);
    this.element.append(this.composer.element);
  }

  /** Look again: nobody tells the thread that a worker came, or that one is gone while it answered. */
  async #refresh() {
    const found = await get("agents", {}, this.leaving).catch(() => null);
    if (!found) return;
    this.agents = found.agents;
    this.composer?.offer(this.agents);
    if ([...this.#messages.values()].some((one) => one.isGrowing)) this.fetch();
  }

  /** Whether no worker of an agent is up, as far as that is known. */
  #isDown(agent) {
    return this.agents.find((one) => one.agent === agent)?.up === 0;
  }

  #listen(cursor) {
    const reader = { event: (event) => this.#hear(event), gap: () => this.fetch(), caughtUp: () => this.fetch() };
    this.unheard = subscribe(`/threads/${this.id}`, cursor, reader);
    this.scrolled = () => this.#mindBelow();
    addEventListener("scroll", this.scrolled, { passive: true });
    document.addEventListener("visibilitychange", (this.seen = () => document.hidden || this.#badge(0)));
  }

  leave() {
    this.unheard();
    this.fetch.cancel();
    removeEventListener("scroll", this.scrolled);
    document.removeEventListener("visibilitychange", this.seen);
  }

  // ------------------------------------------------------------------ what happens

  #hear({ kind, task_id, attempt, data = {} }) {
    if (kind !== "reply" && kind !== "progress") return this.fetch();
    const message = this.#messages.get(task_id ?? data.message);
    if (!message) return this.fetch();
    if (kind === "progress") return message.doing(data.doing ?? data.text ?? "");
    const missing = message.grow({ attempt: attempt ?? 1, offset: data.offset, text: data.text });
    return missing && this.fetch();
  }

  /** Fetch the thread anew; once more if something happened meanwhile. */
  async #fetch() {
    if (this.#fetching) return (this.#again = true);
    try {
      this.#fetching = get(path`threads/${this.id}`, {}, this.leaving);
      this.#show(await this.#fetching);
    } catch (error) {
      if (error.name !== "AbortError" && !error.isAway && error.status !== 401) console.warn(error);
      if (error.name !== "AbortError") setTimeout(() => this.leaving.aborted || this.fetch(), 2000);
    } finally {
      this.#fetching = null;
      if (this.#again) this.fetch();
      this.#again = false;
    }
    return undefined;
  }

  // ------------------------------------------------------------------ what is seen

  #show(view) {
    this.view = view;
    this.heading.textContent = plainly(view.title);
    this.#badge(this.#unread);
    this.description.show(view);
    this.#kept(() => keyed(this.list, view.messages, (one) => one.message_id, (one) => this.#made(one), (_, one) => this.#changed(one)));
  }

  #made(message) {
    const typeOf = (answer) => this.#typeOf(answer);
    const made = new Message(message, { changed: () => this.#fetch(), grown: () => this.#follow(), typeOf, isDown: (agent) => this.#isDown(agent) });
    this.#messages.set(message.message_id, made);
    return made.element;
  }

  #typeOf({ answers, task_id }) {
    const asking = this.view.messages.find((one) => one.message_id === answers);
    return asking?.asks.find((ask) => ask.task_id === task_id)?.type ?? "mention";
  }

  #changed(message) {
    const shown = this.#messages.get(message.message_id);
    const before = shown.message;
    shown.show(message);
    const isAnswer = message.kind === "agent";
    if (isAnswer && before?.state === "generating" && message.state !== "generating") this.#ended(shown, message);
    else if (isAnswer && !before && shown.isGrowing) fill(this.spoken, `${message.author} is asked`);
  }

  /** Only an end is worth a notice: no piece of a text is. */
  #ended({ element }, message) {
    const words = `${message.author} ${outcome(message)}`;
    const { top, bottom } = element.getBoundingClientRect();
    const isSeen = !document.hidden && bottom > 0 && top < innerHeight;
    if (isSeen) fill(this.spoken, words);
    else say(`${words} in “${plainly(this.view.title)}”`);
    if (document.hidden) this.#badge(this.#unread + 1);
  }

  #badge(unread) {
    this.#unread = unread;
    title(unread ? `(${unread}) ${this.view.title}` : this.view.title);
  }

  // ------------------------------------------------------------------ where one reads

  get #left() {
    return document.documentElement.scrollHeight - innerHeight - scrollY;
  }

  /** Who reads at the end stays at the end. */
  #kept(act) {
    const atEnd = this.atEnd;
    act();
    if (atEnd) this.#toEnd();
    this.#mindBelow();
  }

  #follow() {
    if (this.atEnd) this.#toEnd();
    this.#mindBelow();
  }

  #toEnd() {
    scrollTo(0, document.documentElement.scrollHeight);
  }

  #mindBelow() {
    this.atEnd = this.element.isConnected && this.#left < NEAR;
    this.below.hidden = !this.element.isConnected || this.#left < 2 * NEAR;
  }
}

