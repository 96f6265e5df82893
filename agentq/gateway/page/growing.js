// A text that grows by pieces, each of which says at which character it stands, and of which attempt it is.

/** What is there of one answer. Characters are code points, as the gateway counts them. */
export class Growing {
  attempt = 0;
  text = "";
  ended = false;
  #length = 0;

  /** Take a piece: "new" when the text grew, "known" when it was there already, "missing" when something before it was not. */
  take({ attempt, offset, text }) {
    if (this.ended || attempt < this.attempt) return "known";
    if (attempt > this.attempt) this.#become(attempt, "");
    if (offset > this.#length) return "missing";
    const characters = [...text];
    const fresh = characters.slice(this.#length - offset);
    if (!fresh.length) return "known";
    this.text += fresh.join("");
    this.#length += fresh.length;
    return "new";
  }

  /** Take the whole as it was fetched, unless more than that is here already. */
  reach({ attempt, text, state }) {
    this.ended = state !== "generating";
    const length = [...text].length;
    const isMore = attempt > this.attempt || (attempt === this.attempt && length > this.#length);
    if (this.ended || isMore) this.#become(attempt, text);
  }

  #become(attempt, text) {
    this.attempt = attempt;
    this.text = text;
    this.#length = [...text].length;
  }
}
