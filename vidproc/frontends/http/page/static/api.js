// Requests to this server. Every path is relative to the page, for a proxy may put a prefix before it.

import * as token from "./token.js";
import { text } from "./texts.js";

const ROOT = new URL(".", document.baseURI);

export function address(path) {
  return new URL(path, ROOT).href;
}

/** What the server refused, or that it could not be reached (status 0). */
export class Problem extends Error {
  constructor(status, detail, solution, retryAfter = null) {
    super(detail);
    this.status = status;
    this.detail = detail;
    this.solution = solution;
    this.retryAfter = retryAfter;
  }
}

/** Read a problem from an answer's status, body and Retry-After. */
export function problemOf(status, body, retryAfter) {
  let fields = {};
  try {
    fields = JSON.parse(body) ?? {};
  } catch {
    // a proxy's own page, most likely
  }
  const seconds = Number.parseInt(retryAfter ?? "", 10);
  return new Problem(
    status,
    typeof fields.detail === "string" ? fields.detail : text("problem.unknown", { status }),
    typeof fields.solution === "string" ? fields.solution : text("problem.unknown.solution"),
    Number.isFinite(seconds) ? seconds : null,
  );
}

export function networkProblem() {
  return new Problem(0, text("problem.network"), text("problem.network.solution"));
}

/** Send a request with the token, if there is one; ask for a token when the server wants one.
 * Returns the response; throws `Problem`, or the signal's AbortError. */
export async function request(path, { headers = {}, ...options } = {}) {
  for (;;) {
    const used = token.current();
    let response;
    try {
      response = await fetch(address(path), {
        ...options,
        headers: { ...headers, ...token.header(used) },
        cache: "no-store",
      });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw networkProblem();
    }
    if (response.status === 401) {
      await token.another(used);
      continue;
    }
    if (response.ok) return response;
    throw problemOf(response.status, await response.text(), response.headers.get("Retry-After"));
  }
}

export async function json(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch {
    throw networkProblem();
  }
}

export function task(id, options) {
  return json(`api/v1/tasks/${encodeURIComponent(id)}`, options);
}

/** Return a URL of a task's result that needs no token; it is good for an hour. */
export async function link(id) {
  const path = `api/v1/tasks/${encodeURIComponent(id)}/link`;
  const made = await json(path, { method: "POST" });
  return new URL(made.url, address(path)).href;
}
