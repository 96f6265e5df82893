// @ in a text field offers the agents' names: arrows choose, Enter takes, Esc closes.

import { fill, h } from "./dom.js";

const MENTION = /(?:^|[^\w.@-])@([\w.-]*)$/;
const MOST = 8;
let fields = 0;

/** Let a textarea complete mentions. `agents()` answers what is known now: [{ agent, up }]. Returns the list's element. */
export function completed(field, agents) {
  const id = `mentions-${(fields += 1)}`;
  const list = h("ul", { id, class: "mentions", role: "listbox", "aria-label": "Agents", hidden: true });
  const completion = new Completion(field, list, agents);
  field.setAttribute("aria-autocomplete", "list");
  field.setAttribute("aria-haspopup", "listbox");
  field.addEventListener("input", () => completion.look());
  field.addEventListener("click", () => completion.look());
  field.addEventListener("blur", () => completion.close());
  field.addEventListener("keydown", (event) => event.isComposing || completion.key(event));
  return list;
}

class Completion {
  #found = [];
  #at = 0;

  constructor(field, list, agents) {
    Object.assign(this, { field, list, agents });
  }

  get #written() {
    const { selectionStart, selectionEnd, value } = this.field;
    return selectionStart === selectionEnd ? MENTION.exec(value.slice(0, selectionStart))?.[1] : undefined;
  }

  look() {
    const written = this.#written?.toLowerCase();
    if (written === undefined) return this.close();
    const names = this.agents().filter(({ agent }) => agent.toLowerCase().includes(written));
    const begins = ({ agent }) => !agent.toLowerCase().startsWith(written);
    this.#found = names.toSorted((one, other) => begins(one) - begins(other)).slice(0, MOST);
    this.#at = 0;
    if (this.#found.length) this.#open();
    else this.close();
  }

  #open() {
    this.list.hidden = false;
    const said = { role: "combobox", "aria-expanded": "true", "aria-controls": this.list.id };
    for (const [name, value] of Object.entries(said)) this.field.setAttribute(name, value);
    fill(this.list, this.#found.map((one, at) => this.#option(one, at)));
    this.#mark();
  }

  close() {
    this.list.hidden = true;
    this.list.replaceChildren();
    for (const name of ["role", "aria-expanded", "aria-controls", "aria-activedescendant"]) this.field.removeAttribute(name);
  }

  #option({ agent, up }, at) {
    const take = (event) => {
      event.preventDefault(); // the field keeps the focus
      this.#take(at);
    };
    const note = up ? null : h("span", { class: "dim" }, "no worker is up");
    return h("li", { id: `${this.list.id}-${at}`, role: "option", onpointerdown: take }, `@${agent}`, " ", note);
  }

  #mark() {
    [...this.list.children].forEach((option, at) => {
      option.setAttribute("aria-selected", String(at === this.#at));
      if (at === this.#at) option.scrollIntoView({ block: "nearest" });
    });
    this.field.setAttribute("aria-activedescendant", `${this.list.id}-${this.#at}`);
  }

  key(event) {
    const act = !this.list.hidden && !event.ctrlKey && !event.metaKey && !event.shiftKey && this.#keys[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  #keys = {
    ArrowDown: () => this.#move(1),
    ArrowUp: () => this.#move(-1),
    Enter: () => this.#take(this.#at),
    Tab: () => this.#take(this.#at),
    Escape: () => this.close(),
  };

  #move(by) {
    this.#at = (this.#at + by + this.#found.length) % this.#found.length;
    this.#mark();
  }

  #take(at) {
    const caret = this.field.selectionStart;
    this.field.setRangeText(`${this.#found[at].agent} `, caret - this.#written.length, caret, "end");
    this.field.dispatchEvent(new Event("input"));
    this.close();
    this.field.focus();
  }
}
