// Writing in a thread: a message whose mentions ask agents at once, or the thread given to one agent with a button.

import { newKey, path } from "./api.js";
import { fill, h } from "./dom.js";
import { limited } from "./limits.js";
import { completed } from "./mentions.js";
import { send } from "./sending.js";
import { problem } from "./toasts.js";

const ASKS = [
  ["assign", "Assign", "Give this agent the thread as its work", "assignment"],
  ["run", "Run", "Let this agent do once what the thread says", "manual"],
  ["refine", "Refine", "Ask this agent for a better description", "refinement"],
];
/** Where what was written and not sent is kept: until the tab is closed, also when the page is loaded anew. */
const kept = (threadId) => `agentq.draft.${threadId}`;

/** Whether an agent takes tasks of a type; one that says nothing of it may. */
const takes = (type) => (agent) => !agent.types?.length || agent.types.includes(type);

/** The form's element. `agents()` answers whom one can ask; `posted(answer)` is called with what the gateway made of it. */
export function composer(threadId, agents, posted) {
  return new Composer(threadId, agents, posted);
}

class Composer {
  #key = newKey();

  constructor(threadId, agents, posted) {
    Object.assign(this, { threadId, posted });
    this.field = h("textarea", {
      id: "composer",
      rows: 3,
      value: sessionStorage.getItem(kept(threadId)) ?? "",
      placeholder: "Write a message, @ names an agent",
      "aria-describedby": "composer-about",
      oninput: () => this.#changed(),
      onkeydown: (event) => this.#pressed(event),
    });
    this.list = completed(this.field, () => agents().filter(takes("mention")));
    this.limit = limited(this.field, 65_536);
    this.who = h("select", { id: "composer-agent" });
    this.said = h("div", { class: "said", role: "alert" });
    this.element = h("form", { class: "composer card", onsubmit: (event) => this.#post(event) }, this.#parts());
    this.offer(agents());
  }

  #parts() {
    const press = (where) => () => this.#send(where, { agent: this.who.value, ...this.#text });
    const ask = ([where, words, about]) => h("button", { type: "button", title: about, onclick: press(where) }, words);
    return [
      h("label", { for: "composer" }, "Message"),
      h("div", { class: "field" }, this.field, this.list),
      this.limit,
      h("p", { id: "composer-about", class: "dim" }, "Who is mentioned is asked at once. Ctrl+Enter posts."),
      this.said,
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "submit", class: "primary" }, "Post"),
        h("span", { class: "asking", role: "group", "aria-label": "Give the thread to an agent" },
          h("label", { for: "composer-agent", class: "unseen" }, "Agent"), this.who, ASKS.map(ask)),
      ),
    ];
  }

  /** Offer these agents to be chosen; one that is up first of all. */
  offer(agents) {
    const able = agents.filter((agent) => ASKS.some(([, , , type]) => takes(type)(agent)));
    const chosen = this.who.value || able.find(({ up }) => up)?.agent;
    const one = ({ agent, up }) => h("option", { value: agent, selected: agent === chosen }, up ? agent : `${agent} (not up)`);
    fill(this.who, able.map(one));
    this.element.classList.toggle("has-agents", able.length > 0);
  }

  get #text() {
    const text = this.field.value.trim();
    return text ? { text } : {};
  }

  #changed() {
    this.#key = newKey();
    try {
      if (this.field.value) sessionStorage.setItem(kept(this.threadId), this.field.value);
      else sessionStorage.removeItem(kept(this.threadId));
    } catch {
      sessionStorage.removeItem(kept(this.threadId)); // it is too large, and an older one would be a wrong one
    }
  }

  #pressed(event) {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    this.element.requestSubmit();
  }

  #post(event) {
    event.preventDefault();
    if (this.#text.text) this.#send("messages", this.#text);
    else this.field.focus();
  }

  async #send(where, body) {
    if (!this.element.reportValidity()) return;
    const buttons = this.element.querySelectorAll("button");
    buttons.forEach((one) => (one.disabled = true));
    try {
      const answer = await send(`${path`threads/${this.threadId}`}/${where}`, body, this.#key);
      this.#sent(answer);
    } catch (error) {
      fill(this.said, problem(error));
    } finally {
      buttons.forEach((one) => (one.disabled = false));
      this.field.focus();
    }
  }

  #sent(answer) {
    this.field.value = "";
    this.field.dispatchEvent(new Event("input"));
    const unheard = (answer.not_asked ?? []).map(({ agent, why }) => h("p", {}, h("strong", {}, `${agent} was not asked: `), why));
    fill(this.said, unheard);
    this.posted(answer);
  }
}
