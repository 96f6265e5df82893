// The evidence of a task: each artifact's text in place, a patch as a diff, and all of them to be saved.

import { ask, get, path } from "./api.js";
import { diff } from "./diff.js";
import { fill, h } from "./dom.js";
import { complain, problem } from "./toasts.js";
import { bytes, theirWords, unseen } from "./words.js";

const SHOWN = 512 * 1024;
const FIRST = ["summary", "answer", "report", "patch", "test-output", "verdict", "decision", "risks"];
const OPEN = new Set(["summary", "answer", "report", "patch", "test-output"]);

/** Fill `section` with the artifacts of a task; says so when there are none yet. */
export async function showEvidence(section, taskId, leaving) {
  try {
    const { artifacts } = await get(path`tasks/${taskId}/artifacts`, {}, leaving);
    const ordered = [...artifacts].sort((one, other) => rank(one) - rank(other));
    if (!ordered.length) return fill(section, h("p", { class: "dim" }, "It has no artifacts."));
    fill(section, ordered.map((one) => artifact(taskId, one, leaving)));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.isNothingYet) fill(section, h("p", { class: "dim" }, "None yet: evidence comes with the result."));
    else fill(section, problem(error, () => showEvidence(section, taskId, leaving)));
  }
}

/** Open the artifact of that name and go to it; answers whether it is there. */
export function openArtifact(section, name) {
  const found = [...section.querySelectorAll(".artifact")].find((one) => one.dataset.artifact === name);
  if (!found) return false;
  found.open = true;
  found.querySelector("summary").focus();
  found.scrollIntoView({ block: "start" });
  return true;
}

function rank({ name }) {
  const at = FIRST.indexOf(name);
  return at < 0 ? FIRST.length : at;
}

/** What may be shown: files without a suffix have no better type than a row of bytes, and are looked into. */
function mayBeText(type) {
  return /^text\/|json|xml|yaml|toml|x-diff|markdown|octet-stream/.test(type ?? "");
}

/** The text of bytes, null when they are none; `cut` that the end is missing. */
function textOf(buffer, cut) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(buffer, { stream: cut });
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

function artifact(taskId, one, leaving) {
  const where = path`tasks/${taskId}/artifacts/${one.name}`;
  const content = h("div", {});
  let loaded = false;
  const load = async () => {
    if (loaded || !element.open) return;
    loaded = true;
    fill(content, h("p", { class: "dim" }, "reading …"));
    try {
      fill(content, await shown(where, one, leaving));
    } catch (error) {
      loaded = false;
      if (error.name !== "AbortError") fill(content, problem(error, load));
    }
  };
  const element = h(
    "details",
    { class: "artifact", dataset: { artifact: one.name }, ontoggle: load, open: OPEN.has(one.name) && mayBeText(one.media_type) },
    h(
      "summary",
      {},
      h("strong", {}, one.name),
      h("span", { class: "dim" }, ` ${bytes(one.bytes)}, made by ${one.made_by}`),
    ),
    h(
      "div",
      { class: "bar" },
      h("button", { type: "button", class: "quiet", onclick: () => save(where, one) }, "Save", unseen(one.name)),
      one.sha256 && h("span", { class: "dim mono digest", title: "SHA-256" }, one.sha256),
    ),
    content,
  );
  return element;
}

async function shown(where, one, leaving) {
  const closed = h("p", { class: "dim" }, `${one.media_type}: save it to look at it.`);
  if (!mayBeText(one.media_type)) return closed;
  if (one.bytes === 0) return h("p", { class: "dim" }, "It is empty.");
  const cut = one.bytes > SHOWN;
  const headers = cut ? { range: `bytes=0-${SHOWN - 1}` } : {};
  const answer = await ask("GET", where, { headers, signal: leaving });
  const text = textOf(await answer.arrayBuffer(), cut);
  if (text === null) return closed;
  const rest = cut && h("p", { class: "dim" }, `The first ${bytes(SHOWN)} of ${bytes(one.bytes)}: save it to see the rest.`);
  if (one.media_type === "text/x-diff" || one.name === "patch") return [diff(text), rest];
  return [theirWords(text, one.made_by === "daemon" ? "taken by its worker" : "an agent's words"), rest];
}

/** Save to the reader's disk; a link alone could not bring the token. */
async function save(where, one) {
  try {
    const answer = await ask("GET", where);
    const url = URL.createObjectURL(await answer.blob());
    h("a", { href: url, download: filename(answer, one.name) }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    complain(error, `${one.name} was not saved`);
  }
}

function filename(answer, otherwise) {
  return answer.headers.get("content-disposition")?.match(/filename="([^"/\\]+)"/)?.[1] ?? otherwise;
}
