// What exactly is approved, and the two buttons.

import { get, path } from "./api.js";
import { confirmed } from "./dialog.js";
import { busy, fill, focus, h } from "./dom.js";
import { may } from "./me.js";
import { plainly } from "./plain.js";
import { to } from "./router.js";
import { send } from "./sending.js";
import { complain, problem, say } from "./toasts.js";
import { badge, clock, facts, span, theirWords, unseen } from "./words.js";

/** Of how many needed tasks it is asked how they stand. */
const LOOKED_AT = 20;

/** A block with all that a task's digest covers, and the buttons to approve or reject it; `done` is called after. */
export function approvalPanel(taskId, leaving, done) {
  const element = h("section", { class: "approval card", "aria-label": `Approval of ${taskId}` }, h("p", {}, "reading …"));
  let request = null;

  async function load() {
    try {
      request = await get(path`tasks/${taskId}/request`, {}, leaving);
      const needs = (request.envelope.depends_on ?? []).slice(0, LOOKED_AT);
      const found = await Promise.all(needs.map((id) => get(path`tasks/${id}`, {}, leaving).catch(() => null)));
      fill(element, h("h2", {}, "This needs an approval"), requested(request, found.filter(Boolean)), buttons());
    } catch (error) {
      if (error.name !== "AbortError") fill(element, problem(error, load));
    }
  }

  function buttons() {
    if (!may("approver")) return h("p", { class: "dim" }, "Your token does not allow you to approve.");
    if (!request.digest) {
      return h("p", { class: "problem" }, "It cannot be approved: something that the approval would cover is missing.");
    }
    return h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", class: "danger", onclick: reject }, "Reject …", unseen(taskId)),
      h("button", { type: "button", class: "primary", onclick: approve }, "Approve exactly this", unseen(taskId)),
    );
  }

  async function act(doing, body, said) {
    busy(element.querySelectorAll("button"));
    try {
      await send(path`tasks/${taskId}/${doing}`, body);
      say(said);
      done();
    } catch (error) {
      complain(error, taskId);
      focus(element); // not the button: what it would approve now is to be read first
      load();
    }
    dispatchEvent(new Event("agentq:count"));
  }

  const approve = () => act("approve", { digest: request.digest }, `${taskId} is approved.`);
  async function reject() {
    const reason = await confirmed(`Reject ${taskId}?`, {
      text: "The task ends as cancelled, and is never started.",
      reason: "Why (whoever asked will read it)",
      required: true,
      doing: "Reject",
      danger: true,
    });
    if (reason !== null) act("reject", { reason }, `${taskId} is rejected.`);
  }

  load();
  return element;
}

/** The envelope, its context and the digest over both, as they were registered; of the tasks that it needs, how these stand. */
export function requested({ envelope, context, cut, digest }, needed = []) {
  const asked = envelope;
  const expected = asked.expected_output?.artifacts ?? [];
  const labels = Object.entries(asked.labels ?? {});
  return [
    facts(
      ["For", `${asked.to} (${asked.type})`],
      ["Asked for by", asked.from],
      ["Created", asked.created_at && clock(asked.created_at)],
      ["Priority", asked.priority],
      ["Time for one attempt", asked.timeout_seconds && span(asked.timeout_seconds)],
      ["Attempts at most", asked.max_attempts],
      ["Evidence wanted", expected.join(", ")],
      ["Needs", asked.depends_on?.length ? asked.depends_on.map((id) => need(id, needed.find((one) => one.task_id === id))) : null],
      ["Labels", labels.length ? labels.map(([key, value]) => h("span", { class: "tag" }, plainly(value ? `${key}=${value}` : key))) : null],
      ["Budget", asked.budget && JSON.stringify(asked.budget)],
      ["Digest", digest && h("span", { class: "mono digest" }, digest)],
    ),
    theirWords(asked.instructions ?? "", `instructions, the words of ${asked.from}`),
    context !== null && context !== undefined && theirWords(context, "context that its agent is given"),
    cut && h("p", { class: "problem" }, `Only the beginning of the context is shown. The whole is tasks/${asked.task_id}.md in the store; its digest is ${asked.context_sha256}.`),
    h(
      "details",
      {},
      h("summary", {}, "The whole envelope"),
      h("pre", { tabindex: "0", "aria-label": "Envelope" }, plainly(JSON.stringify(envelope, null, 2))),
    ),
  ];
}

function need(id, found) {
  return h("div", {}, h("a", { href: to`/tasks/${id}` }, id), found && [" ", badge(found.state, found.waits_for)]);
}
