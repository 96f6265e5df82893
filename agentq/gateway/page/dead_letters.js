// What could not be done or read: to look at, to try again, or to throw away.

import { get, path, post, remove } from "./api.js";
import { confirmed } from "./dialog.js";
import { busy, debounced, fill, h, keyed } from "./dom.js";
import { subscribe } from "./live.js";
import { may } from "./me.js";
import { plainly } from "./plain.js";
import { title, to } from "./router.js";
import { complain, problem, say } from "./toasts.js";
import { ago, nothing, theirWords, unseen } from "./words.js";

/** The view of the dead letters. */
export function deadLetters(root, params, leaving) {
  title("Dead letters");
  const notice = h("div");
  const list = h("ul", { class: "plain" });
  fill(root, h("h1", {}, "Dead letters"), h("p", { class: "dim" }, "Tasks that were given up, and messages that nobody could read. Looking at them changes nothing."), notice, list);

  async function load() {
    try {
      const { dead_letters: letters } = await get("dead-letters", {}, leaving);
      keyed(list, letters, (one) => one.id, make);
      fill(notice, letters.length ? null : nothing("There are no dead letters."));
    } catch (error) {
      if (error.name !== "AbortError") fill(notice, problem(error, load));
    }
  }

  async function act(button, doing, act, said) {
    busy([button]);
    try {
      said(await act());
    } catch (error) {
      complain(error, doing);
      busy([button], false);
    }
    load();
    dispatchEvent(new Event("agentq:count"));
  }

  function make(letter) {
    const again = ({ currentTarget: button }) =>
      act(button, "Retrying it", () => post(path`dead-letters/${letter.id}/retry`), (task) =>
        say(`It is tried again as ${task?.task_id ?? "a task"}.`),
      );
    const drop = async ({ currentTarget: button }) => {
      const sure = await confirmed("Delete this dead letter?", {
        text: "The message is gone for good. Its task's papers, if it has any, stay.",
        doing: "Delete",
        danger: true,
      });
      if (sure !== null) act(button, "Deleting it", () => remove(path`dead-letters/${letter.id}`), () => say("It is deleted."));
    };
    const which = () => unseen(letter.task_id ?? `the message of ${new Date(letter.at).toLocaleString()}`);
    return h(
      "li",
      { class: "card letter" },
      h(
        "div",
        { class: "head" },
        h("h2", { class: "id" }, letter.task_id ? h("a", { href: to`/tasks/${letter.task_id}` }, letter.task_id) : "No task"),
        h("span", { class: "dim" }, [letter.agent && `for ${letter.agent}, `, ago(letter.at)]),
      ),
      theirWords(letter.reason, "why"),
      h("details", {}, h("summary", {}, "The message"), h("pre", { tabindex: "0", "aria-label": "Body of the message" }, plainly(pretty(letter.body)))),
      may("coordinator") &&
        h(
          "div",
          { class: "buttons" },
          h("button", { type: "button", class: "danger", onclick: drop }, "Delete …", which()),
          h("button", { type: "button", class: "primary", onclick: again }, "Retry", which()),
        ),
    );
  }

  const soon = debounced(load, 400, 2000);
  addEventListener("agentq:refresh", load, { signal: leaving });
  load();
  const stop = subscribe("/events", "", { event: (event) => event.kind === "dead_lettered" && soon(), gap: soon });
  return () => (stop(), soon.cancel());
}

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
