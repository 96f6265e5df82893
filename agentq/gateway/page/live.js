// The WebSocket: one connection for all of the page, which comes back by itself and goes on behind what it has.

import { token } from "./api.js";

const FIRST = 400;
const LONGEST = 15_000;
const OPENING = 10_000;
const FINAL = new Set([4401, 4403]);

/** Topics by name: { since, readers }. `since` is the cursor behind the last frame that came. */
const topics = new Map();
const listeners = new Set();
const awaiting = new Set();

let socket = null;
let welcomed = false;
let attempts = 0;
let timer = 0;
let watchdog = 0;
let patience = 40_000;
let state = { name: "connecting", detail: "" };
let engine = { name: "ok", detail: "" };

/** What the connection is: connecting, live, reconnecting, away (the gateway has no engine), or refused. */
export function connection() {
  return state;
}

/** Call `listener(state)` now and at every change, until what this returns is called. */
export function whenConnection(listener) {
  listeners.add(listener);
  listener(state);
  return () => listeners.delete(listener);
}

/** Be told of a topic's events until what this returns is called.
 *
 * `since`: "" is what comes from now on, "start" all that is kept, else a cursor. The reader is
 * {event(event, cursor), caughtUp(), gap(detail), problem(problem)}, each as wanted; after a gap, fetch anew.
 * Several readers share one topic's subscription: who joins later hears only what comes from then on. */
export function subscribe(topic, since, reader) {
  let known = topics.get(topic);
  if (!known) {
    known = { since, readers: new Set(), told: false };
    topics.set(topic, known);
    if (welcomed) send({ op: "subscribe", topic, since });
  } else if (known.told) queueMicrotask(() => reader.caughtUp?.());
  known.readers.add(reader);
  return () => {
    known.readers.delete(reader);
    if (known.readers.size || topics.get(topic) !== known) return;
    topics.delete(topic);
    if (welcomed) send({ op: "unsubscribe", topic });
  };
}

/** Call `act` once, as soon as the gateway is heard of again. */
export function whenBack(act) {
  awaiting.add(act);
}

function back() {
  const acts = [...awaiting];
  awaiting.clear();
  for (const act of acts) act();
}

/** Connect, and stay connected from now on; also after a refusal, with whatever token there is now. */
export function connect() {
  clearTimeout(timer);
  if (socket) close(socket);
  open();
}

/** Go offline for good: until connect() is called. */
export function disconnect() {
  clearTimeout(timer);
  clearTimeout(watchdog);
  if (socket) close(socket);
  socket = null;
}

function open() {
  const url = new URL("ws", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const mine = new WebSocket(url);
  socket = mine;
  welcomed = false;
  awaitSigns(OPENING);
  mine.onopen = () => mine.send(JSON.stringify({ op: "hello", token: token() || null }));
  mine.onmessage = ({ data }) => mine === socket && take(JSON.parse(data));
  mine.onclose = ({ code, reason }) => mine === socket && lost(code, reason);
}

function close(old) {
  old.onclose = old.onmessage = old.onopen = null;
  old.close();
  welcomed = false;
}

function send(frame) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

/** A connection of which nothing is heard for that long is given up. */
function awaitSigns(milliseconds) {
  clearTimeout(watchdog);
  watchdog = setTimeout(() => {
    if (socket) close(socket);
    lost(0, "nothing was heard of the gateway");
  }, milliseconds);
}

function take(frame) {
  awaitSigns(patience);
  TAKES[frame.op]?.(frame, topics.get(frame.topic));
}

const TAKES = {
  welcome(frame) {
    welcomed = true;
    attempts = 0;
    patience = 2500 * (frame.heartbeat_seconds || 15);
    engine = { name: "ok", detail: "" };
    for (const [topic, { since }] of topics) send({ op: "subscribe", topic, since });
    tellState();
    back();
  },
  heartbeat: back,
  subscribed(frame, topic) {
    if (topic && frame.at && topic.since !== "start") topic.since = frame.at;
  },
  event(frame, topic) {
    if (!topic) return;
    topic.since = frame.id;
    tell(topic, (reader) => reader.event?.(frame.event, frame.id));
  },
  caught_up(frame, topic) {
    if (!topic) return;
    if (frame.id) topic.since = frame.id;
    topic.told = true;
    tell(topic, (reader) => reader.caughtUp?.());
  },
  gap(frame, topic) {
    if (topic) tell(topic, (reader) => reader.gap?.(frame.detail));
  },
  problem(frame, topic) {
    if (topic) tell(topic, (reader) => reader.problem?.(frame.problem));
  },
  state(frame) {
    engine = { name: frame.engine, detail: frame.detail ?? "" };
    tellState();
  },
};

/** One reader's mistake is not the others'. */
function tell(topic, act) {
  for (const reader of [...topic.readers]) {
    try {
      act(reader);
    } catch (error) {
      console.error(error);
    }
  }
}

function lost(code, reason) {
  clearTimeout(watchdog);
  socket = null;
  welcomed = false;
  if (FINAL.has(code)) return become("refused", reason);
  become("reconnecting", reason);
  const wait = Math.random() * Math.min(LONGEST, FIRST * 2 ** attempts);
  attempts += 1;
  timer = setTimeout(open, 100 + wait);
}

function tellState() {
  if (engine.name === "ok") become("live", "");
  else become("away", engine.detail);
}

function become(name, detail) {
  if (state.name === name && state.detail === detail) return;
  state = { name, detail };
  for (const listener of [...listeners]) listener(state);
}

/** What wakes the page up is worth a try at once. */
function wake() {
  if (socket || state.name !== "reconnecting" || document.hidden) return;
  clearTimeout(timer);
  attempts = 0;
  open();
}

addEventListener("online", wake);
document.addEventListener("visibilitychange", wake);
