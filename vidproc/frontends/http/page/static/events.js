// One stream of events for all tasks. Read by fetch: EventSource can't send a token.

import { request } from "./api.js";

const SILENCE = 45_000; // ms; the server says something each 15 s
const LONGEST_WAIT = 30_000;
const MOST = 100; // tasks that one stream may follow

export class Events {
  /** `onStatus` is given each status; `onGone` is called when the server doesn't know one of the
   * tasks; `onConnected` is told whether the stream is there. */
  constructor({ onStatus, onGone, onConnected }) {
    this.onStatus = onStatus;
    this.onGone = onGone;
    this.onConnected = onConnected;
    this.wanted = "";
    this.stop = null;
    this.lastId = null;
    window.addEventListener("online", () => this.wake?.());
  }

  /** Follow these tasks from now on, and no others. */
  follow(ids) {
    const wanted = [...ids].sort().slice(0, MOST).join("&");
    if (wanted === this.wanted && this.stop !== null) return;
    this.stop?.abort();
    this.stop = null;
    this.wanted = wanted;
    this.lastId = null;
    if (wanted === "") {
      this.onConnected(true);
      return;
    }
    this.stop = new AbortController();
    this.run(wanted.split("&"), this.stop);
  }

  async run(ids, stop) {
    const query = ids.map((id) => `task=${encodeURIComponent(id)}`).join("&");
    let wait = 500;
    while (!stop.signal.aborted) {
      try {
        const headers = { Accept: "text/event-stream" };
        if (this.lastId !== null) headers["Last-Event-ID"] = this.lastId;
        const response = await request(`api/v1/events?${query}`, { headers, signal: stop.signal });
        this.onConnected(true);
        if (response.status === 204) break;
        const began = performance.now();
        await this.read(response, stop);
        if (performance.now() - began > 5000) wait = 500;
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error.status >= 400 && error.status < 500 && error.status !== 429) {
          this.onGone(ids);
          wait = Math.max(wait, 5000);
        }
      }
      if (stop.signal.aborted) return;
      this.onConnected(false);
      await this.sleep(wait * (0.75 + Math.random() / 2));
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
    if (this.stop === stop) this.stop = null;
  }

  sleep(time) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, time);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Read a stream to its end. Throws when it is cut or falls silent. */
  async read(response, stop) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await withTimeout(reader, SILENCE);
      if (done || stop.signal.aborted) return;
      rest += value.replaceAll("\r", "");
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) this.take(block);
    }
  }

  take(block) {
    const fields = { data: [] };
    for (const line of block.split("\n")) {
      const colon = line.indexOf(":");
      if (colon <= 0) continue;
      const value = line.slice(colon + 1).replace(/^ /, "");
      if (line.slice(0, colon) === "data") fields.data.push(value);
      else fields[line.slice(0, colon)] = value;
    }
    if (fields.id !== undefined) this.lastId = fields.id;
    if (fields.event === "status" && fields.data.length > 0)
      this.onStatus(JSON.parse(fields.data.join("\n")));
  }
}

async function withTimeout(reader, time) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the stream is silent")), time);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
