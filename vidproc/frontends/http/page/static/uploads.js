// Sends films, in the order in which they came, as many at a time as the server lets an address have.
// tus-js-client (window.tus) moves the bytes; whether and when to try again is decided here.

import * as token from "./token.js";
import * as store from "./store.js";
import { address, networkProblem, Problem, problemOf, request } from "./api.js";
import { isHeld, take, whenFree } from "./holding.js";

const WAITS = [1, 2, 4, 8, 15, 30]; // seconds
const REFUSALS_BEFORE_END = 5; // errors of the server in a row, without progress
const SHOW_EVERY = 250; // ms between two looks at an upload's progress
const RATE_WINDOW = 4000; // ms
// A lock and a change of localStorage reach other tabs in any order: ms until they surely have both.
const TOLD = 1000;
const TUS = { "Tus-Resumable": "1.0.0" };

/** What this tab knows of a film's upload and no other tab does. */
export class Run {
  constructor(film, file, release) {
    this.film = film;
    this.file = file;
    this.release = release;
    this.sending = false;
    this.loaded = film.sent ?? 0;
    this.rate = null;
    this.wait = null; // {key, until}: why nothing moves
    this.upload = null;
    this.stop = new AbortController(); // aborted when it is cancelled
    this.samples = [];
    this.shownAt = -Infinity;
    this.wake = null;
  }

  progress(loaded) {
    const now = performance.now();
    this.loaded = loaded;
    this.samples.push([now, loaded]);
    while (this.samples.length > 2 && now - this.samples[0][0] > RATE_WINDOW) this.samples.shift();
    const [since, before] = this.samples[0];
    if (now - since > 400) this.rate = Math.max(0, ((loaded - before) / (now - since)) * 1000);
  }

  get eta() {
    return this.rate ? (this.film.size - this.loaded) / this.rate : null;
  }

  sleep(seconds, key) {
    this.rate = null;
    this.samples = [];
    this.wait = { key, until: Date.now() + seconds * 1000 };
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => {
      this.wait = null;
      this.wake = null;
    });
  }
}

export class Uploads {
  /** `onChange` is called with a film whenever there is something new to show, `onAccepted` when
   * the server has made a task of it. */
  constructor({ onChange, onAccepted }) {
    this.onChange = onChange;
    this.onAccepted = onAccepted;
    this.runs = new Map();
    this.elsewhere = new Map();
    this.slots = 1;
    window.addEventListener("online", () => this.wakeAll());
  }

  run(id) {
    return this.runs.get(id);
  }

  isElsewhere(id) {
    return this.elsewhere.has(id);
  }

  /** Take a film's file into this tab; returns whether no other tab has it. */
  async add(film, file) {
    if (this.runs.has(film.id)) return true;
    const release = await take(film.id);
    if (release === null) {
      this.watch(film);
      return false;
    }
    this.unwatch(film.id);
    this.runs.set(film.id, new Run(film, file, release));
    // Only now, so that tabs which learn of the film by this find it taken.
    store.save(film);
    this.onChange(film);
    this.pump();
    return true;
  }

  /** Learn whether another tab has the file of a film that is not sent. */
  async watch(film) {
    if (!(await isHeld(film.id)) || this.runs.has(film.id) || this.elsewhere.has(film.id)) return;
    const stop = whenFree(film.id, () => {
      this.elsewhere.delete(film.id);
      const now = store.get(film.id);
      if (now) this.onChange(now);
    });
    this.elsewhere.set(film.id, stop);
    this.onChange(film);
  }

  unwatch(id) {
    this.elsewhere.get(id)?.();
    this.elsewhere.delete(id);
  }

  /** Start as many as there are slots for. */
  pump() {
    let taken = [...this.runs.values()].filter((run) => run.sending).length;
    taken += store.all().filter((film) => store.isActive(film)).length;
    const waiting = [...this.runs.values()]
      .filter((run) => !run.sending && !run.film.problem)
      .sort((a, b) => a.film.created - b.film.created);
    for (const run of waiting) {
      if (taken >= this.slots) return;
      taken += 1;
      run.sending = true;
      this.send(run);
    }
  }

  wakeAll() {
    for (const run of this.runs.values()) run.wake?.();
  }

  /** A slot of this address may have become free. */
  slotFreed() {
    for (const run of this.runs.values()) if (run.wait?.key === "wait.slot") run.wake?.();
    this.pump();
  }

  async send(run) {
    const { film } = run;
    this.onChange(film);
    let failures = 0;
    let restarts = 0;
    for (;;) {
      const before = run.loaded;
      const used = token.current();
      try {
        const taskId = await this.attempt(run);
        this.finish(run, { taskId, status: { status: "queued" } });
        return;
      } catch (problem) {
        if (run.stop.signal.aborted) return;
        if (run.loaded > before) failures = restarts = 0;
        if (problem.status === 401) {
          run.wait = { key: "wait.token" };
          this.onChange(film);
          await token.another(used);
          run.wait = null;
        } else if (problem.status === 429 || problem.status === 503) {
          const key = problem.status === 429 ? "wait.slot" : "wait.server";
          const sleeping = run.sleep(problem.retryAfter ?? 10, key);
          this.onChange(film);
          await sleeping;
        } else if (problem.status === 0 || problem.status >= 500 || problem.status === 409) {
          if (!(await readable(run.file))) {
            this.lose(run, true);
            return;
          }
          failures += 1;
          if (problem.status !== 0 && failures >= REFUSALS_BEFORE_END) {
            this.refuse(run, problem);
            return;
          }
          const sleeping = run.sleep(
            WAITS[Math.min(failures, WAITS.length) - 1],
            problem.status === 0 ? "wait.network" : "wait.server",
          );
          this.onChange(film);
          await sleeping;
        } else if ((problem.status === 404 || problem.status === 410) && restarts < 2) {
          restarts += 1; // the server has forgotten it: from the start
          film.uploadUrl = null;
          film.key = store.newId();
          film.sent = run.loaded = 0;
          store.save(film);
        } else {
          this.refuse(run, problem);
          return;
        }
        if (run.stop.signal.aborted) return;
        this.onChange(film);
      }
    }
  }

  /** Send what the server does not have; returns the task's id, throws `Problem`. */
  attempt(run) {
    const { film } = run;
    return new Promise((resolve, reject) => {
      const upload = new window.tus.Upload(run.file, {
        endpoint: address("api/v1/uploads"),
        uploadUrl: film.uploadUrl ?? null,
        uploadSize: film.size,
        metadata: {
          type: film.type,
          parameters: JSON.stringify(film.parameters),
          filename: film.name,
        },
        fileReader: { openFile: async (file) => new Source(file) },
        retryDelays: null,
        storeFingerprintForResuming: false,
        // The store knows the upload by its id; this is what tells films and settings apart.
        fingerprint: async () =>
          JSON.stringify([film.name, film.size, film.modified, film.type, film.parameters]),
        onBeforeRequest: async (sent) => {
          for (const [name, value] of Object.entries(token.header())) sent.setHeader(name, value);
          // Creating it twice creates it once, should the first answer be lost.
          if (sent.getMethod() === "POST") sent.setHeader("Idempotency-Key", film.key);
          if (sent.getHeader("Upload-Offset") === "0") await knock(sent.getURL(), run.stop.signal);
          run.stop.signal.throwIfAborted(); // tus-js-client would send it all the same
        },
        onUploadUrlAvailable: () => {
          if (film.uploadUrl === upload.url) return;
          film.uploadUrl = upload.url;
          store.save(film);
        },
        onProgress: (loaded) => {
          run.progress(loaded);
          // Drawing the list with each event would cost a fast upload half of its speed.
          const now = performance.now();
          if (now - run.shownAt < SHOW_EVERY) return;
          run.shownAt = now;
          this.onChange(film);
        },
        onSuccess: (payload) => {
          const id = payload?.lastResponse?.getHeader("Vidproc-Task");
          if (id) resolve(id);
          else reject(networkProblem());
        },
        onError: (error) => reject(problemFrom(error)),
      });
      run.upload = upload;
      upload.start();
    });
  }

  finish(run, fields) {
    Object.assign(run.film, fields, { problem: null });
    store.save(run.film);
    this.onAccepted(run.film);
    // Not at once, or other tabs might take the film for one that no tab sends any more.
    const { release } = run;
    run.release = () => setTimeout(release, TOLD);
    this.drop(run);
  }

  refuse(run, problem) {
    run.film.problem = { detail: problem.detail, solution: problem.solution, status: problem.status };
    run.sending = false;
    store.save(run.film);
    this.onChange(run.film);
    this.pump();
  }

  /** The file is no longer there, or is another one. */
  lose(run, unreadable) {
    run.film.unreadable = unreadable;
    store.save(run.film);
    this.drop(run);
  }

  drop(run) {
    run.sending = false;
    this.runs.delete(run.film.id);
    run.release();
    this.onChange(run.film);
    this.pump();
  }

  /** Try once more what the server has refused. */
  retry(film) {
    const run = this.runs.get(film.id);
    if (!run) return;
    film.problem = null;
    film.uploadUrl = null;
    film.key = store.newId();
    film.sent = run.loaded = 0;
    store.save(film);
    this.onChange(film);
    this.pump();
  }

  /** Stop sending a film, and have the server forget what it has of it. */
  async cancel(film) {
    const run = this.runs.get(film.id);
    if (run) {
      run.stop.abort();
      run.wake?.();
      await run.upload?.abort(false)?.catch?.(() => {});
      this.drop(run);
    }
    this.unwatch(film.id);
    const uploadUrl = film.uploadUrl ?? run?.upload?.url;
    if (uploadUrl && !film.taskId) await forget(uploadUrl);
  }
}

/** A file as tus-js-client reads it. */
class Source {
  constructor(file) {
    this.file = file;
    this.size = file.size;
  }

  /** Always a slice, even if it is all of the file: Chromium sends that faster than the file itself
   * (docs/performance.md). */
  async slice(start, end) {
    return { value: this.file.slice(start, end), done: end >= this.size };
  }

  close() {}
}

/** Send no bytes: the server refuses that as it would refuse the file, before much of that is on
 * its way. A browser may never see the answer to a large body that is refused. */
async function knock(url, signal) {
  const headers = { ...TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream" };
  await request(url, { method: "PATCH", headers, signal });
}

/** Ask the server how much it has of a film that is not wholly sent. */
export async function askOffset(film) {
  if (!film.uploadUrl || film.taskId) return;
  try {
    const response = await request(film.uploadUrl, { method: "HEAD", headers: TUS });
    const taskId = response.headers.get("Vidproc-Task");
    film.sent = Number.parseInt(response.headers.get("Upload-Offset"), 10) || 0;
    if (taskId) Object.assign(film, { taskId, status: { status: "queued" }, problem: null });
  } catch (problem) {
    if (problem.status !== 404 && problem.status !== 410) return;
    Object.assign(film, { uploadUrl: null, sent: 0, key: store.newId() });
  }
  store.save(film);
}

async function forget(uploadUrl) {
  try {
    await request(uploadUrl, { method: "DELETE", headers: TUS });
  } catch (problem) {
    // Else it is forgotten already, or will be when its time is over.
    if (problem.status === 409) await cancelTaskOf(uploadUrl);
  }
}

/** Cancel the task of an upload that was accepted before this tab was told. */
async function cancelTaskOf(uploadUrl) {
  try {
    const response = await request(uploadUrl, { method: "HEAD", headers: TUS });
    const taskId = response.headers.get("Vidproc-Task");
    if (taskId) await request(`api/v1/tasks/${taskId}`, { method: "DELETE" });
  } catch {
    // It has ended, or the server is gone: then it ends without this page.
  }
}

async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

function problemFrom(error) {
  if (error.causingError instanceof Problem) return error.causingError;
  const response = error.originalResponse;
  if (!response || !response.getStatus()) return networkProblem();
  return problemOf(response.getStatus(), response.getBody(), response.getHeader("Retry-After"));
}
