// One message of a thread: what it says, or that an agent is writing, what came of it, and what can be done.

import { newKey, path, post } from "./api.js";
import { busy, fill, focus, h } from "./dom.js";
import { confirmed } from "./dialog.js";
import { Growing } from "./growing.js";
import { may } from "./me.js";
import { plainly } from "./plain.js";
import { Prose } from "./prose.js";
import { to } from "./router.js";
import { send } from "./sending.js";
import { complain, say } from "./toasts.js";
import { ago, unseen } from "./words.js";

const DECIDED = {
  answer: "answered",
  refine: "proposed a change of the description",
  "report-status": "reported how things stand",
  act: "did something",
  decline: "declined",
};

/** What an answer's end is called. */
export function outcome({ state, decided }) {
  return state === "failed" ? "failed" : (DECIDED[decided?.decision] ?? "answered");
}

const WITH_A_BUTTON = { assignment: "assign", manual: "run", refinement: "refine" };

/** A message's element and what is known of it. `changed()` is called when something was asked for, `grown()` when its
 * text was drawn longer; `typeOf(message)` is the type of the task that an answer comes from, `isDown(agent)` whether
 * nobody is up who could answer. */
export class Message {
  #growing = new Growing();
  #key = newKey();
  #doing = "";
  #drawing = 0;
  #said = new Map();

  constructor(message, { changed, grown, typeOf, isDown }) {
    Object.assign(this, { changed, grown, typeOf, isDown });
    const id = `m-${message.message_id}`;
    this.head = h("header", { id: `${id}-head` });
    this.body = h("div", { class: "prose" });
    this.foot = h("div", { class: "outcome" });
    this.prose = new Prose(this.body);
    this.article = h("article", { "aria-labelledby": `${id}-head` }, this.head, this.body, this.foot);
    this.element = h("li", { class: `message is-${message.kind}`, dataset: { message: message.message_id } }, this.article);
  }

  /** Whether its text is still growing. */
  get isGrowing() {
    return this.message.state === "generating";
  }

  /** Bring it up to date with what was fetched. */
  show(message) {
    this.message = message;
    if (!isBegun(message)) this.#doing = "";
    this.#growing.reach(message);
    this.element.classList.toggle("is-growing", this.isGrowing);
    this.element.classList.toggle("is-failed", message.state === "failed");
    this.article.setAttribute("aria-busy", String(this.isGrowing));
    const { author, at, finished_at, attempt, task_id, state } = message;
    this.#write(this.head, headOf(message), [author, at, finished_at, attempt, task_id, state]);
    this.#foot();
    this.prose.show(this.#growing.text);
  }

  /** Take a piece of its text; answers whether something before it is missing. */
  grow(piece) {
    const came = this.#growing.take(piece);
    if (came === "new") this.#drawing ||= requestAnimationFrame(() => this.#draw());
    return came === "missing";
  }

  /** Say what the agent is doing. */
  doing(text) {
    if (!this.isGrowing) return;
    this.#doing = text;
    this.#foot();
  }

  #draw() {
    this.#drawing = 0;
    this.prose.show(this.#growing.text);
    this.grown();
  }

  #foot() {
    const { state, reason, decided, asks, not_asked, task_state, interrupted, author } = this.message;
    const said = [state, reason, decided, asks, not_asked, task_state, interrupted, this.isDown(author), this.#doing];
    this.#write(this.foot, this.#footOf(this.message), said);
  }

  /** Leave alone what says the same, so that no focus is lost. */
  #write(element, children, said) {
    const now = JSON.stringify(said);
    if (this.#said.get(element) === now) return;
    this.#said.set(element, now);
    fill(element, children);
  }

  #footOf(message) {
    if (message.state === "generating") return this.#typing(message);
    const ended = message.kind === "agent" || message.state === "failed";
    return ended ? [decision(message), this.#again(message)] : asked(message);
  }

  #typing(message) {
    const { author, task_id } = message;
    const begun = isBegun(message);
    const words = begun ? `${author} is writing` : this.#waiting(message);
    const dots = h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    const stop = task_id && may("coordinator") && button(["Stop", unseen(`${author}, ${task_id}`)], () => this.#stop());
    const doing = this.#doing && ` · ${plainly(this.#doing)}`;
    return h("p", { class: begun ? "typing" : "typing is-waiting" }, dots, h("span", {}, words, doing), stop);
  }

  #waiting({ author, interrupted }) {
    const down = this.isDown(author) && `no worker of ${author} is up`;
    if (interrupted) return `${author} was interrupted, and ${down || "is tried again"}`;
    return down || `${author} has not begun yet`;
  }

  /** Ask the same agent once more, as everybody in the thread can see. */
  #again({ state, task_id, author, thread_id }) {
    if (state !== "failed" || !task_id || !may("coordinator")) return null;
    const type = this.typeOf(this.message);
    const [where, body] =
      type in WITH_A_BUTTON
        ? [path`threads/${thread_id}/${WITH_A_BUTTON[type]}`, { agent: author, text: "Please try again." }]
        : [path`threads/${thread_id}/messages`, { text: `@${author} please try again.` }];
    return button(["Ask again", unseen(`${author}, ${task_id}`)], async ({ currentTarget: asking }) => {
      busy([asking]);
      if (await this.#act(post(where, body, this.#key), `${author} is asked again.`)) this.#key = newKey();
      busy([asking], false);
    });
  }

  async #stop() {
    const { author, task_id } = this.message;
    const text = `What ${author} wrote so far stays, the answer counts as failed.`;
    const reason = await confirmed(`Stop ${author}?`, { text, doing: "Stop it", danger: true, reason: "Why (may be empty)" });
    if (reason === null) return;
    focus(this.article); // the button will go, and what came of it stands here
    await this.#act(send(path`tasks/${task_id}/cancel`, reason ? { reason } : {}), `${author} is being stopped.`);
  }

  async #act(asking, words) {
    try {
      await asking;
      say(words);
      this.changed();
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  }
}

/** Whether somebody writes at it: an answer only while its task is worked on. */
function isBegun({ task_id, task_state }) {
  return !task_id || (task_state !== null && task_state !== "pending");
}

function button(words, onclick) {
  return h("button", { type: "button", class: "quiet", onclick }, words);
}

function headOf({ author, kind, at, finished_at, attempt, task_id, state }) {
  return [
    h("strong", { class: "author" }, author),
    kind === "agent" && h("span", { class: "tag" }, "agent"),
    h("span", { class: "dim" }, ago(finished_at ?? at)),
    state === "generating" && attempt > 1 && h("span", { class: "dim" }, `attempt ${attempt}`),
    task_id && h("a", { href: to`/tasks/${task_id}` }, "task", unseen(task_id)),
  ];
}

function decision(message) {
  const why = message.state === "failed" ? message.reason : message.decided?.why;
  const name = message.state === "failed" ? "failed" : (message.decided?.decision ?? "answer");
  const words = message.task_id || message.state === "failed" ? outcome(message) : null;
  if (!words) return null;
  return h("p", { class: `decided is-${name}` }, h("strong", {}, words), why && h("span", {}, `: ${plainly(why)}`));
}

const ASKED = { mention: "asked", assignment: "assigned to", manual: "run by", refinement: "to be refined by" };

function asked({ asks, not_asked: unasked }) {
  const one = ({ agent, type, task_id }) => [
    h("span", { class: "dim" }, `${ASKED[type] ?? type} `),
    h("a", { href: to`/tasks/${task_id}` }, `@${agent}`),
  ];
  const other = ({ agent, why }) => h("p", { class: "unasked" }, h("strong", {}, `@${agent} was not asked: `), plainly(why));
  return [asks?.length ? h("p", { class: "asks" }, asks.map((ask) => h("span", {}, one(ask)))) : null, unasked?.map(other)];
}
