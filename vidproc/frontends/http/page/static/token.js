// The token, for servers that have some: asked for at the first 401, kept until the tab is closed.

import { byId } from "./dom.js";
import { text } from "./texts.js";

const KEY = `vidproc:${new URL(".", document.baseURI).pathname}:token`;

let value = read();
let waiting = null;

function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export function current() {
  return value;
}

/** Return the headers that show a token. */
export function header(token = value) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** The server refused `used`: return when there is another token. */
export function another(used) {
  if (value !== used) return Promise.resolve();
  if (waiting === null) {
    const { promise, resolve } = withResolvers();
    waiting = { promise, resolve };
    show(used !== null);
  }
  return waiting.promise;
}

export function isWanted() {
  return waiting !== null;
}

function withResolvers() {
  let resolve;
  const promise = new Promise((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

function show(wrong) {
  const form = byId("token-form");
  const problem = byId("token-problem");
  form.hidden = false;
  problem.hidden = !wrong;
  problem.textContent = wrong ? text("token.wrong") : "";
  byId("token").focus();
}

export function listen() {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = byId("token").value.trim();
    // What a header can't hold is no token; fetch would throw.
    if (!/^[\x21-\x7e]+$/.test(typed)) {
      show(true);
      return;
    }
    value = typed;
    try {
      sessionStorage.setItem(KEY, typed);
    } catch {
      // it is asked for again after a reload
    }
    byId("token").value = "";
    byId("token-form").hidden = true;
    waiting?.resolve();
    waiting = null;
  });
}
