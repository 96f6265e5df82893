// The HTTP API, with the token that this page was given.

const KEPT = "agentq.token";

/** What went wrong, as the gateway tells it (problem+json), or in the same words when nobody answered. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `status ${status}`);
    this.status = status;
    this.type = body.type ?? "about:blank";
    this.title = body.title || `The gateway answered ${status}`;
    this.detail = body.detail ?? "";
    this.hint = body.hint ?? "";
  }

  /** True when nothing answered at all. */
  get isAway() {
    return this.status === 0;
  }

  /** True for a text that is refused because it looks like it holds a credential, and may be sent all the same. */
  get isCredential() {
    return this.type === "urn:agentq:credential";
  }

  /** True for what is not there yet, but will be. */
  get isNothingYet() {
    return this.type === "urn:agentq:nothing-yet";
  }
}

let onUnknown = () => {};

/** Call `listener` whenever the gateway does not know who we are. */
export function whenUnknown(listener) {
  onUnknown = listener;
}

/** The token in use, "" for none. */
export function token() {
  return sessionStorage.getItem(KEPT) ?? localStorage.getItem(KEPT) ?? "";
}

/** Use a token from now on, in this tab alone or on this device. */
export function useToken(text, remembered) {
  forgetToken();
  (remembered ? localStorage : sessionStorage).setItem(KEPT, text);
}

export function forgetToken() {
  sessionStorage.removeItem(KEPT);
  localStorage.removeItem(KEPT);
}

const UNREAD = { hint: "Try again when it is back." };
const UNKNOWN = { detail: "It is not known whether this was done.", hint: "Look when it is back, and do it again if it was not." };

/** A path of the API, its parts escaped: path`tasks/${id}/cancel`. */
export function path(parts, ...values) {
  return String.raw({ raw: parts }, ...values.map((value) => encodeURIComponent(value)));
}

/** Fetch below /api; raises a Problem for everything but success, an AbortError when `signal` fires. */
export async function ask(method, where, { query, body, headers, signal } = {}) {
  const url = `api/${where}${written(query)}`;
  const sent = { accept: "application/json", ...headers };
  if (token()) sent.authorization = `Bearer ${token()}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, {
      method,
      headers: sent,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { title: "The gateway does not answer", ...(method === "GET" ? UNREAD : UNKNOWN) });
  }
  if (answer.ok) return answer;
  const problem = new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 401) onUnknown(problem);
  throw problem;
}

function written(query) {
  const known = Object.entries(query ?? {}).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const pairs = known.flatMap(([name, value]) => [value].flat().map((one) => [name, String(one)]));
  return pairs.length ? `?${new URLSearchParams(pairs)}` : "";
}

async function json(answer) {
  return answer.status === 204 ? null : answer.json();
}

/** The JSON behind a path. */
export async function get(where, query, signal) {
  return json(await ask("GET", where, { query, signal }));
}

/** Send JSON; `key` makes it safe to repeat. */
export async function post(where, body = {}, key) {
  return json(await ask("POST", where, { body, headers: key ? { "idempotency-key": key } : {} }));
}

export async function patch(where, body) {
  return json(await ask("PATCH", where, { body }));
}

export async function remove(where) {
  return json(await ask("DELETE", where));
}

/** A key for one intention, so that sending it again does nothing twice. */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
