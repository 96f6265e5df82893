// What a thread is about: its description with a number, and changes that agents propose, which a person decides.

import { get, newKey, path, post } from "./api.js";
import { fill, h, keyed } from "./dom.js";
import { confirmed } from "./dialog.js";
import { limited } from "./limits.js";
import { may } from "./me.js";
import { plainly } from "./plain.js";
import { Prose } from "./prose.js";
import { to } from "./router.js";
import { send } from "./sending.js";
import { complain, problem, say } from "./toasts.js";
import { shownChange } from "./word_changes.js";
import { ago, unseen } from "./words.js";

/** The description's element, with what is proposed for it. `changed()` is called when something was decided. */
export class Description {
  #editing = false;
  #draft = null;

  constructor(changed) {
    this.changed = changed;
    this.text = h("div", { class: "prose" });
    this.prose = new Prose(this.text);
    this.head = h("p", { class: "dim version" });
    this.none = h("p", { class: "dim" }, "Nobody has written one yet.");
    this.shown = h("div", {}, this.none, this.text, this.head);
    this.proposals = h("ol", { class: "proposals" });
    this.edit = h("button", { type: "button", class: "quiet", onclick: () => this.#write() }, "Edit");
    const title = h("div", { class: "titled" }, h("h2", { id: "description" }, "Description"), may("coordinator") && this.edit);
    this.element = h("section", { class: "description card", "aria-labelledby": "description" }, title, this.shown);
    this.element.append(this.proposals);
  }

  show(view) {
    this.view = view;
    const { description, proposals } = view;
    this.prose.show(description.text);
    this.none.hidden = description.text !== "";
    this.head.hidden = !description.text && !description.number;
    fill(this.head, versionOf(description));
    const open = proposals.filter(({ state }) => state === "open" || state === "stale");
    const key = ({ task_id, state }) => `${task_id} ${state} ${description.number}`;
    keyed(this.proposals, open, key, (one) => this.#proposal(one));
    this.proposals.hidden = !open.length;
  }

  #proposal({ task_id, agent, base, text, why, state }) {
    const name = `proposal-${task_id}`;
    const stale = `It was made for version ${base}, and the description is at ${this.view.description.number}.`;
    return h(
      "li",
      { class: `proposal is-${state}`, role: "group", "aria-labelledby": name },
      h("h3", { id: name }, `${agent} proposes a change`, h("a", { href: to`/tasks/${task_id}` }, "task")),
      why && h("p", { class: "why" }, plainly(why)),
      state === "stale" && h("p", { class: "dim" }, stale),
      shownChange(this.view.description.text, text),
      may("coordinator") && this.#buttons({ task_id, base, state }),
    );
  }

  #buttons({ task_id, base, state }) {
    const where = path`threads/${this.view.thread_id}/description`;
    const accept = () => this.#act(post(where, { accepts: task_id, base }, newKey()), "The change is accepted.");
    const decline = async () => {
      const asked = { text: "The description stays as it is.", doing: "Decline", reason: "Why (may be empty)" };
      const reason = await confirmed("Decline this change?", asked);
      if (reason === null) return;
      this.#act(send(`${where}/decline`, { task_id, ...(reason && { reason }) }), "The change is declined.");
    };
    return h(
      "div",
      { class: "buttons" },
      state === "open" && h("button", { type: "button", class: "primary", onclick: accept }, "Accept", unseen(task_id)),
      h("button", { type: "button", onclick: decline }, "Decline", unseen(task_id)),
    );
  }

  async #act(asking, words) {
    try {
      await asking;
      say(words);
    } catch (error) {
      complain(error);
    }
    this.changed();
  }

  /** Write the description oneself, for the version that is seen; what was begun and not saved goes on for its own. */
  #write() {
    if (this.#editing) return;
    this.#editing = true;
    let { number, text } = this.#draft ?? this.view.description;
    const field = h("textarea", { id: "new-description", rows: 8, value: this.#draft?.written ?? text });
    const limit = limited(field, 65_536);
    const said = h("div");
    const done = (draft) => {
      this.#draft = draft;
      this.#editing = false;
      form.replaceWith(this.shown);
      this.edit.hidden = false;
      this.edit.focus();
    };
    const keep = () => done(field.value === text ? null : { number, text, written: field.value });
    /** Somebody else was first: show what they made of it, and go on from there. */
    const meet = async (error) => {
      const { description: current } = await get(path`threads/${this.view.thread_id}`);
      fill(said, problem(error));
      if (current.number === number) return;
      const words = `What ${current.by} changed meanwhile; saving puts your text in the place of version ${current.number}:`;
      fill(said, h("p", { class: "problem", role: "alert" }, words), shownChange(text, current.text));
      ({ number, text } = current);
      this.changed();
    };
    const save = async (event) => {
      event.preventDefault();
      try {
        await send(path`threads/${this.view.thread_id}/description`, { text: field.value, base: number }, newKey());
        done(null);
        this.changed();
      } catch (error) {
        if (error.status === 409) await meet(error).catch((worse) => fill(said, problem(worse)));
        else fill(said, problem(error));
      }
    };
    const back = h("button", { type: "button", class: "quiet", onclick: keep }, "Back");
    const discard = this.#draft && h("button", { type: "button", class: "quiet", onclick: () => done(null) }, "Discard");
    const submit = h("button", { type: "submit", class: "primary" }, "Save");
    const label = h("label", { for: "new-description", class: "unseen" }, "Description");
    const form = h("form", { class: "editing", onsubmit: save }, label, field, limit, said, h("div", { class: "buttons" }, submit, back, discard));
    this.edit.hidden = true;
    this.shown.replaceWith(form);
    field.focus();
  }
}

function versionOf({ number, by, at, from_task }) {
  const from = from_task && [", as proposed in ", h("a", { href: to`/tasks/${from_task}` }, "a task")];
  return [`Version ${number}`, by && ` by ${by}`, at && [" · ", ago(at)], from];
}
