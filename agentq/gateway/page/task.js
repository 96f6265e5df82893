// One task: where it stands, what it was asked, what it prints, what it left behind, and what can be done about it.

import { get, newKey, path, post } from "./api.js";
import { approvalPanel, requested } from "./approval.js";
import { confirmed } from "./dialog.js";
import { busy, debounced, fill, h, renew } from "./dom.js";
import { openArtifact, showEvidence } from "./evidence.js";
import { subscribe, whenBack } from "./live.js";
import { may } from "./me.js";
import { outputView, pieceOf } from "./output.js";
import { replyView } from "./reply.js";
import { plainly } from "./plain.js";
import { go, title, to } from "./router.js";
import { send } from "./sending.js";
import { timelineView } from "./timeline.js";
import { complain, problem, say } from "./toasts.js";
import { ago, badge, clock, dollars, facts, hasEnded, short, span, theirWords } from "./words.js";

/** The view of one task, which follows it until it is left. */
export function task(root, params, leaving) {
  const id = params.id;
  title(id);
  const parts = {
    head: h("div"),
    about: h("p", { class: "dim about" }),
    actions: h("div"),
    notice: h("div"),
    approval: h("div"),
    why: h("div"),
    result: h("section", { hidden: true }),
    asked: h("details", { class: "card" }, h("summary", {}, "What was asked")),
    evidence: h("div"),
    output: h("section", {}, h("h2", {}, "Output")),
  };
  const output = outputView(toWhole);
  parts.output.append(output.element);
  const reply = replyView();
  const timeline = timelineView();
  const layout = h(
    "div",
    { class: "task-layout" },
    h(
      "div",
      {},
      parts.approval,
      parts.why,
      parts.result,
      parts.asked,
      reply.element,
      parts.output,
      h("section", {}, h("h2", {}, "Evidence"), parts.evidence),
    ),
    h("section", { class: "steps", "aria-label": "Timeline" }, h("h2", {}, "Timeline"), timeline.element),
  );
  fill(root, h("h1", { class: "id" }, id), parts.about, h("div", { class: "task-head" }, parts.head, parts.actions), parts.notice, layout);

  let status = null;
  let request = null;
  let manifest = null;
  let doing = { attempt: 0, text: "" };
  const retryKey = newKey();

  async function load() {
    try {
      status = await get(path`tasks/${id}`, {}, leaving);
      fill(parts.notice);
    } catch (error) {
      if (error.name !== "AbortError") failed(error);
      return;
    }
    if (hasEnded(status.state) && !manifest) {
      manifest = await get(path`tasks/${id}/result`, { check: false }, leaving).catch((error) => later(error, load));
      if (!leaving.aborted) showEvidence(parts.evidence, id, leaving);
    } else if (!manifest) {
      fill(parts.evidence, h("p", { class: "dim" }, "None yet: evidence comes with the result."));
    }
    layout.hidden = false;
    show();
    if (status.state === "processing" && doing.attempt !== status.attempt) learn(status.attempt);
  }

  /** What the agent said last that it does: the task's own papers do not have it, the list of tasks does. */
  async function learn(attempt) {
    const found = await get("tasks", { text: id, state: "processing", limit: 20 }, leaving).catch(() => ({ tasks: [] }));
    const row = found.tasks.find((one) => one.task_id === id);
    if (!row || row.attempt !== attempt || doing.attempt >= attempt) return;
    doing = { attempt, text: row.doing ?? "" };
    show();
  }

  function failed(error) {
    fill(parts.notice, problem(error, load));
    layout.hidden = status === null && error.status >= 400 && error.status < 500;
  }

  /** Only the transcript of the attempt that ended the task is a piece of its evidence. */
  function toWhole(attempt) {
    if (manifest?.attempt === attempt && openArtifact(parts.evidence, "transcript")) return;
    say(`The whole of attempt ${attempt} is in the store: artifacts/${id}/${attempt}/transcript.log`);
  }

  /** Ask again for what stands beside the task once the gateway is back. */
  function later(error, act) {
    if (error.isAway) whenBack(() => leaving.aborted || act());
    return null;
  }

  function history() {
    const ignored = () => {}; // what is away is said by the task itself, and asked for again
    get(path`tasks/${id}/events`, {}, leaving).then(({ events }) => timeline.takeAll(events), ignored);
    get(path`tasks/${id}/output`, {}, leaving).then(({ pieces }) => output.take(pieces), ignored);
  }

  async function ask() {
    request = await get(path`tasks/${id}/request`, {}, leaving).catch((error) => later(error, ask));
    if (!request || leaving.aborted) return;
    if (request.envelope.expected_output?.artifacts?.includes("decision")) replay();
    fill(parts.about, plainly(titled(request.envelope.instructions ?? "")));
    fill(parts.asked, h("summary", {}, "What was asked"), requested(request));
    show();
  }

  function show() {
    if (!status || leaving.aborted) return;
    renew(parts.head, head(status, request, manifest, doing));
    renew(parts.actions, actions(status, load, retryKey, request?.envelope.labels?.thread));
    renew(parts.result, hasEnded(status.state) ? result(status, manifest) : null);
    parts.result.hidden = !hasEnded(status.state);
    if (hasEnded(status.state)) {
      reply.element.hidden = true; // now it is evidence
      output.ended();
    }
    parts.output.hidden = Boolean(status.tasks); // a plan prints nothing, its tasks do
    showApproval();
    showWhy();
  }

  function showApproval() {
    const wanted = status.state === "pending" && status.waits_for === "approval";
    if (wanted && !parts.approval.firstChild) fill(parts.approval, approvalPanel(id, leaving, load));
    if (!wanted) fill(parts.approval);
    parts.asked.hidden = wanted;
  }

  async function showWhy() {
    if (hasEnded(status.state) || status.state === "processing") return void fill(parts.why);
    const why = await get(path`tasks/${id}/why`, {}, leaving).catch(() => null);
    if (!leaving.aborted && why && !hasEnded(status.state)) fill(parts.why, whyWords(why));
  }

  /** Hear all that is kept: the beginning of an answer, which only the log of output has while it is written. */
  function replay() {
    if (stop.replays || leaving.aborted) return;
    stop();
    stop = subscribe(topic, "start", reader);
    stop.replays = true;
  }

  const soon = debounced(load, 250, 1500);
  const reader = {
    event(event) {
      const piece = pieceOf(event);
      if (piece) return output.take([piece]);
      if (event.kind === "reply") return hasEnded(status?.state) || reply.take(event);
      timeline.take(event);
      if (event.kind !== "progress") return soon();
      doing = { attempt: event.attempt, text: event.data?.text ?? "" };
      show();
    },
    caughtUp: history,
    gap: () => (history(), soon()),
  };
  const topic = `/tasks/${id}`;
  let stop = subscribe(topic, "", reader);
  load();
  history();
  ask();
  addEventListener("agentq:refresh", () => status && hasEnded(status.state) || load(), { signal: leaving });
  return () => (stop(), soon.cancel());
}

/** The first words of what was asked. */
function titled(text) {
  const words = text.slice(0, 1000).trim().split("\n")[0];
  return words.length > 160 ? `${words.slice(0, 159)}…` : words;
}

function whyWords({ reason, next }) {
  const then = [next].flat().filter(Boolean);
  if (!reason && !then.length) return null;
  return h(
    "div",
    { class: "why card" },
    h("p", {}, h("strong", {}, "Why it does not run: "), reason),
    then.map((line) => h("p", { class: "hint" }, line)),
  );
}

function head(status, request, manifest, doing) {
  const { envelope } = request ?? {};
  const usage = manifest?.usage ?? {};
  const labels = Object.entries(envelope?.labels ?? {});
  const link = (id) => h("a", { href: to`/tasks/${id}` }, id);
  const running = status.state === "processing";
  return [
    h(
      "p",
      { class: "standing-line" },
      h("span", { role: "status" }, badge(status.state, status.waits_for)),
      running && status.since && h("span", { class: "dim" }, " attempt ", status.attempt, ", for ", ago(status.since, { bare: true })),
      status.until && !running && h("span", { class: "dim" }, " until ", clock(status.until)),
      status.cancel_asked && h("span", { class: "tag" }, "cancel asked"),
    ),
    running && doing.text && doing.attempt === status.attempt && h("q", { class: "doing", title: "an agent's words" }, plainly(doing.text)),
    facts(
      ["Agent", h("a", { href: `${to`/tasks`}?agent=${encodeURIComponent(status.agent)}` }, status.agent)],
      ["Type", status.type],
      ["Priority", status.priority],
      ["Asked for by", envelope?.from],
      ["Created", status.created_at && ago(status.created_at)],
      ["Worker", running && [status.worker, status.host].filter(Boolean).join(" on ")],
      ["Attempts", attempts(status)],
      ["Approved by", status.approved_by],
      ["Needs", status.needs?.length ? status.needs.map((one) => [link(one), " "]) : null],
      ["Plan", status.group ? h("a", { href: to`/plans/${status.group}` }, status.group) : null],
      ["Its tasks", status.tasks ? h("a", { href: to`/plans/${status.task_id}` }, "as a graph") : null],
      ["Retry of", envelope?.retry_of && link(envelope.retry_of)],
      ["Thread", envelope?.labels?.thread && inThread(envelope)],
      ["Labels", labels.length ? labels.map(([key, value]) => h("span", { class: "tag" }, plainly(value ? `${key}=${value}` : key))) : null],
      ["Ended", status.finished_at && ago(status.finished_at)],
      ["Took", usage.seconds !== null && usage.seconds !== undefined ? span(usage.seconds) : null],
      ["Cost", manifest && (usage.cost_usd === null || usage.cost_usd === undefined ? "not told" : `${usage.at_least ? "at least " : ""}${dollars(usage.cost_usd)}`)],
      ["Tokens", usage.input_tokens || usage.output_tokens ? `${short(usage.input_tokens)} in, ${short(usage.output_tokens)} out` : null],
      ["Moved to", status.moved_to],
    ),
  ];
}

/** The thread that a task is of; an answer that is tried again is one of its own, and not seen there. */
function inThread({ labels, retry_of }) {
  return [h("a", { href: to`/threads/${labels.thread}` }, plainly(labels.thread)), retry_of && h("span", { class: "dim" }, ", which does not show its answer")];
}

/** Which attempt it is or was, and how many came to nothing; the number that ended it by a seal is nobody's attempt. */
function attempts({ state, attempt, attempts_counted: counted }) {
  const last = attempt && ["processing", "completed"].includes(state) ? `number ${attempt}` : null;
  return [last, counted ? `${counted} without a result` : null].filter(Boolean).join(", ");
}

function result(status, manifest) {
  const verified = status.verified ? "verified" : `not verified${status.unverified_because ? `: ${status.unverified_because}` : ""}`;
  const decided = manifest?.decided;
  return [
    h("h2", {}, "Result"),
    h("p", {}, badge(status.state), " ", h("span", { class: "tag" }, verified), manifest?.verdict && h("span", { class: "tag" }, manifest.verdict)),
    decided && h("p", {}, h("strong", {}, `Decided: ${decided.decision}`), decided.why && [" – ", h("q", {}, plainly(decided.why))]),
    status.reason && theirWords(status.reason, "reason"),
    status.summary && theirWords(status.summary, "summary, an agent's words"),
  ];
}

function actions(status, load, key, thread) {
  if (!may("coordinator")) return null;
  if (hasEnded(status.state)) {
    return h("div", { class: "buttons" }, h("button", { type: "button", onclick: (event) => retry(event, status, key, thread) }, "Retry as a new task"));
  }
  return h("div", { class: "buttons" }, h("button", { type: "button", class: "danger", onclick: (event) => cancel(event, status, load) }, "Cancel …"));
}

async function cancel({ currentTarget: button }, status, load) {
  const reason = await confirmed(`Cancel ${status.task_id}?`, {
    text: status.state === "processing" ? "Its agent is stopped, gently at first. What it did so far stays as evidence." : "It will not be started.",
    reason: "Why (may be left empty)",
    doing: "Cancel the task",
    danger: true,
  });
  if (reason === null) return;
  busy([button]);
  try {
    await send(path`tasks/${status.task_id}/cancel`, reason ? { reason } : {});
    say(`Cancelling ${status.task_id} is asked for.`);
  } catch (error) {
    complain(error, `Cancelling ${status.task_id}`);
  }
  load();
}

async function retry({ currentTarget: button }, status, key, thread) {
  busy([button]);
  try {
    const again = await post(path`tasks/${status.task_id}/retry`, {}, key);
    const there = thread && [" Its answer is not shown in ", h("a", { href: to`/threads/${thread}` }, "the thread"), ": to ask again there, ask in it."];
    say([`${again.task_id} tries it again.`, there]);
    go(to`/tasks/${again.task_id}`);
  } catch (error) {
    busy([button], false);
    complain(error, `Retrying ${status.task_id}`);
  }
}
