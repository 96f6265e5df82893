// The shell: the header, who is signed in, what the connection is, and which views there are.

import { forgetToken, get, token, whenUnknown } from "./api.js";
import { debounced, fill, h } from "./dom.js";
import { connect, disconnect, subscribe, whenConnection } from "./live.js";
import { askForToken } from "./login.js";
import { learnMe, me } from "./me.js";
import { route, show, start, title } from "./router.js";
import { freshen } from "./words.js";
import { complain, problem } from "./toasts.js";
import { agents } from "./agents.js";
import { approvals, TURNS } from "./approvals.js";
import { deadLetters } from "./dead_letters.js";
import { figures } from "./figures.js";
import { plan } from "./plan.js";
import { plans } from "./plans.js";
import { task } from "./task.js";
import { tasks } from "./tasks.js";
import { thread } from "./thread.js";
import { threads } from "./threads.js";
import "./keys.js";

const REFRESH = 15_000;
const main = document.getElementById("main");
let started = false;
let unheard = () => {};

route("/", agents);
route("/agents", agents);
route("/tasks", tasks);
route("/tasks/:id", task);
route("/threads", threads);
route("/threads/:id", thread);
route("/plans", plans);
route("/plans/:id", plan);
route("/approvals", approvals);
route("/dead-letters", deadLetters);
route("/figures", figures);

/** Sign in with what there is, then show what the address says. */
async function enter() {
  try {
    await learnMe();
  } catch (error) {
    if (error.status === 401) return;
    fill(main, h("h1", {}, "agentq"), problem(error, enter));
    if (error.isAway || error.status >= 500) setTimeout(() => started || enter(), 5000);
    return;
  }
  showWho();
  connect();
  unheard();
  unheard = subscribe("/events", "", { event: counting, caughtUp: count, gap: count });
  if (started) return show();
  started = true;
  start(main, missing);
}

function leave() {
  unheard();
  disconnect();
  if (token() || !document.querySelector("form.login")) askForToken(main, enter);
}

whenUnknown(leave);

function showWho() {
  const { name, roles, agent } = me();
  const about = [roles.join(", "), agent && `of ${agent}`].filter(Boolean).join(" ");
  const out = () => {
    forgetToken();
    sessionStorage.clear(); // drafts too
    location.reload();
  };
  fill(
    document.getElementById("who"),
    h("span", { class: "who", title: `May act as: ${about}` }, name || "anonymous", h("span", { class: "unseen" }, `, ${about}`)),
    token() && h("button", { type: "button", class: "quiet", onclick: out }, "Sign out"),
  );
}

function missing(root) {
  title("Not found");
  fill(root, h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/agents" }, "See the agents")));
}

// ------------------------------------------------------------------ the connection

const SAID = {
  connecting: ["…", "connecting"],
  live: ["●", "live"],
  reconnecting: ["↻", "reconnecting"],
  away: ["▲", "engine away"],
  refused: ["✗", "refused"],
};

const WHY = {
  reconnecting: "Not connected: what you see may be old. It is tried again by itself.",
  away: "The broker is away: no task starts or moves on the queue until it is back. Results, evidence and what is shown here can still be read, what you write in threads and decide is kept, and new tasks are refused.",
  refused: "The gateway refuses to tell what happens.",
};

let trouble = 0;

whenConnection((state) => {
  const [sign, words] = SAID[state.name];
  const shown = document.getElementById("connection");
  shown.className = `connection is-${state.name}`;
  fill(shown, h("span", { class: "sign", "aria-hidden": "true" }, sign), words);
  clearTimeout(trouble);
  if (state.name === "refused") check();
  if (state.name in WHY) trouble = setTimeout(() => tell(state), state.name === "reconnecting" ? 1500 : 0);
  else tell(null);
});

/** Whether it is the token that is refused: then it is asked for anew. */
function check() {
  learnMe().catch((error) => error.status === 401 || complain(error));
}

function tell(state) {
  const banner = document.getElementById("banner");
  banner.hidden = !state;
  fill(banner, state && [h("strong", {}, WHY[state.name]), state.detail && h("span", { class: "dim" }, ` ${state.detail}`)]);
}

// ------------------------------------------------------------------ the counts in the navigation

const COUNTED = new Set([...TURNS, "dead_lettered", "submitted"]);
const count = debounced(recount, 1000, 5000);

function counting(event) {
  if (COUNTED.has(event.kind)) count();
}

async function recount() {
  const asked = [get("tasks", { state: "approval", limit: 100 }), get("dead-letters", { limit: 0 })];
  const [waiting, letters] = await Promise.allSettled(asked);
  if (waiting.value) showCount("count-approvals", waiting.value.tasks.length, "waiting");
  if (letters.value) showCount("count-dead-letters", letters.value.count, "there");
}

function showCount(id, number, word) {
  const shown = document.getElementById(id);
  shown.hidden = number === 0;
  fill(shown, number >= 100 ? "99+" : number, h("span", { class: "unseen" }, ` ${word}`));
}

addEventListener("agentq:count", () => count());
addEventListener("agentq:refresh", () => count()); // that a delay is over is no event

// ------------------------------------------------------------------ theme and ages

const themes = document.getElementById("theme");
themes.value = document.documentElement.dataset.theme ?? "auto";
themes.onchange = () => {
  if (themes.value === "auto") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("agentq.theme");
  } else {
    document.documentElement.dataset.theme = themes.value;
    localStorage.setItem("agentq.theme", themes.value);
  }
};

function refresh() {
  if (!document.hidden && !document.querySelector("form.login")) dispatchEvent(new Event("agentq:refresh"));
}

setInterval(() => document.hidden || freshen(), 1000);
setInterval(refresh, REFRESH);
document.addEventListener("visibilitychange", refresh);

enter();
