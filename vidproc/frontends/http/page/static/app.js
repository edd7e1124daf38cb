// The page: it knows the films, and brings uploads, events and the cards together.

import * as store from "./store.js";
import * as token from "./token.js";
import { json, link, request, task } from "./api.js";
import { Card } from "./card.js";
import { chooseOne, listenForDrops } from "./choosing.js";
import { byId, say, setText } from "./dom.js";
import { Events } from "./events.js";
import { Settings } from "./form.js";
import { size } from "./format.js";
import { Panel } from "./panel.js";
import { pictureOf } from "./pictures.js";
import { Staging } from "./staging.js";
import { text } from "./texts.js";
import { askOffset, Uploads } from "./uploads.js";

const SAVE_EVERY = 5000; // ms between two notes of a task's progress
const LOST_AFTER = 2000; // ms without a stream before the page says so

const cards = new Map();
const sources = new Map(); // film id -> its File, for the comparison
const saved = new Map();
const dirty = new Set();

const uploads = new Uploads({ onChange: refresh, onAccepted });
const events = new Events({ onStatus, onGone: checkEach, onConnected });
const staging = new Staging((count) => {
  document.body.classList.toggle("has-staged", count > 0);
  settings?.label(count);
});
let settings = null;
let lostTimer = null;
let frame = null;

// --- showing -----------------------------------------------------------------------------------

/** Show a film as it is now, with the next frame. */
function refresh(film) {
  dirty.add(film.id);
  frame ??= requestAnimationFrame(flush);
  // A hidden page has no frames; its list must be right when it is looked at again.
  if (document.hidden) flush();
}

function flush() {
  if (frame !== null) cancelAnimationFrame(frame);
  frame = null;
  for (const id of dirty) {
    const film = store.get(id);
    const card = cards.get(id);
    if (!film) {
      card?.remove();
      cards.delete(id);
      sources.delete(id);
    } else if (card) {
      card.film = film;
      card.update(uploads.run(id), uploads.isElsewhere(id));
    } else {
      addCard(film);
    }
  }
  dirty.clear();
  showCounts();
}

function addCard(film) {
  const card = new Card(film, actions);
  cards.set(film.id, card);
  card.update(uploads.run(film.id), uploads.isElsewhere(film.id));
  const list = byId("list");
  const after = store.all().slice(store.all().findIndex((other) => other.id === film.id) + 1);
  const next = after.map((other) => cards.get(other.id)?.element).find((element) => element);
  list.insertBefore(card.element, next ?? null);
}

function showCounts() {
  const films = store.all();
  byId("films").hidden = films.length === 0;
  document.body.classList.toggle("has-films", films.length > 0);
  const busy = films.filter((film) => !store.isOver(film) && (film.taskId || uploads.run(film.id))).length;
  setText(byId("films-count"), busy ? text("films.count", { plural: busy, count: busy }) : "");
  byId("clear").hidden = ![...cards.values()].some((card) => card.clearable);
  document.title = busy ? `(${busy}) vidproc` : "vidproc";
}

function tick() {
  for (const film of store.all()) if (uploads.run(film.id)?.wait) refresh(film);
}

// --- what happens ------------------------------------------------------------------------------

function followTasks() {
  events.follow(store.all().filter((film) => store.isActive(film)).map((film) => film.taskId));
}

function onAccepted(film) {
  say(text("says.accepted", { name: film.name }));
  followTasks();
}

function filmOf(taskId) {
  return store.all().find((film) => film.taskId === taskId);
}

function onStatus(status) {
  const film = filmOf(status.task_id);
  if (!film) return;
  const before = film.status?.status;
  film.status = {
    status: status.status,
    stage: status.stage,
    progress: status.progress,
    eta: status.eta,
    speed: status.speed,
    queue_position: status.queue_position,
    wait_reason: status.wait_reason,
    error: status.error,
    solution: status.solution,
    warnings: status.warnings ?? [],
    input: status.input ?? {},
    output: status.output ?? {},
  };
  const now = Date.now();
  if (before !== film.status.status || now - (saved.get(film.id) ?? 0) > SAVE_EVERY) {
    saved.set(film.id, now);
    store.save(film);
  }
  refresh(film);
  if (before === film.status.status || !store.isOver(film)) return;
  announce(film);
  uploads.slotFreed();
  followTasks();
}

function announce(film) {
  const { status, error } = film.status;
  if (["completed", "failed", "cancelled"].includes(status))
    say(text(`says.${status}`, { name: film.name, error: error ?? "" }));
}

/** The server does not know one of these tasks: find out which. */
async function checkEach(ids) {
  for (const id of ids) {
    const film = filmOf(id);
    if (film) await checkTask(film);
  }
  followTasks();
}

async function checkTask(film) {
  try {
    onStatus(await task(film.taskId));
  } catch (problem) {
    if (problem.status !== 404 && problem.status !== 410) return;
    film.status = { ...film.status, status: "gone" };
    store.save(film);
    refresh(film);
    uploads.slotFreed();
  }
}

function onConnected(connected) {
  clearTimeout(lostTimer);
  if (connected) {
    notice("");
    return;
  }
  lostTimer = setTimeout(() => {
    if (!token.isWanted()) notice(text("connection.lost"));
  }, LOST_AFTER);
}

function notice(words) {
  const element = byId("connection");
  element.hidden = words === "";
  setText(element, words);
}

// --- what people do ----------------------------------------------------------------------------

const actions = {
  refresh,
  sourceOf: (film) => sources.get(film.id),

  async download(film) {
    try {
      const url = await link(film.taskId);
      const anchor = document.createElement("a");
      anchor.href = url;
      anchor.download = "";
      document.body.append(anchor);
      anchor.click();
      anchor.remove();
      film.downloaded = true;
      store.save(film);
      refresh(film);
    } catch (problem) {
      await failed(film, problem);
    }
  },

  async cancel(film) {
    if (film.taskId) {
      try {
        await request(`api/v1/tasks/${film.taskId}`, { method: "DELETE" });
        await checkTask(film);
      } catch (problem) {
        await failed(film, problem);
      }
      return;
    }
    await uploads.cancel(film);
    say(text("says.cancelled", { name: film.name }));
    forget(film);
  },

  async remove(film) {
    try {
      if (film.taskId && film.status?.status !== "gone")
        await request(`api/v1/tasks/${film.taskId}`, { method: "DELETE" });
      else await uploads.cancel(film);
    } catch (problem) {
      if (problem.status !== 404 && problem.status !== 410) {
        await failed(film, problem);
        return;
      }
    }
    forget(film);
  },

  choose(film) {
    chooseOne((file) => {
      if (!matches(film, file)) {
        say(text("choose.other", { name: film.name, size: size(film.size) }));
        notice(text("choose.other", { name: film.name, size: size(film.size) }));
        return;
      }
      notice("");
      goOn(film, file);
    });
  },

  retry: (film) => uploads.retry(film),
};

/** An action did not work: say so, and look how the task stands. */
async function failed(film, problem) {
  notice(`${problem.detail} ${problem.solution}`);
  say(`${problem.detail} ${problem.solution}`);
  if (film.taskId) await checkTask(film);
}

function forget(film) {
  const next = cards.get(film.id)?.element.nextElementSibling?.querySelector("button");
  store.remove(film.id);
  refresh(film);
  followTasks();
  uploads.slotFreed();
  (next ?? byId("choose")).focus();
}

function matches(film, file) {
  return (
    file.name === film.name &&
    file.size === film.size &&
    (film.modified === undefined || file.lastModified === film.modified)
  );
}

/** Go on with a film whose file is here again. */
async function goOn(film, file) {
  film.problem = null;
  film.unreadable = false;
  store.save(film);
  sources.set(film.id, file);
  await askOffset(film);
  if (film.taskId) followTasks();
  else await uploads.add(film, file);
  refresh(film);
}

function isWaitingForFile(film) {
  return !film.taskId && !uploads.run(film.id) && !uploads.isElsewhere(film.id);
}

/** Take files that were dropped or chosen: for films that wait for theirs, or as new ones. */
function takeFiles(files) {
  const fresh = [];
  for (const file of files) {
    const lost = store.all().filter((film) => isWaitingForFile(film) && matches(film, file));
    if (lost.length > 0) for (const film of lost) goOn(film, file);
    else fresh.push(file);
  }
  if (fresh.length > 0 || files.length === 0) staging.add(fresh);
}

async function start() {
  const parameters = settings.parameters();
  if (parameters === null || staging.files.length === 0) return;
  const created = Date.now();
  const type = settings.operation;
  const films = staging.take().map((file, index) => {
    const film = {
      id: store.newId(),
      key: store.newId(),
      created: created + index / 1000,
      name: file.name,
      size: file.size,
      modified: file.lastModified,
      type,
      parameters,
      sent: 0,
    };
    sources.set(film.id, file);
    return [film, file];
  });
  for (const [film, file] of films) {
    await uploads.add(film, file);
    pictureOf(file).then((picture) => {
      if (picture === null || !store.get(film.id)) return;
      film.picture = picture;
      store.save(film);
      refresh(film);
    });
  }
  if (store.broken) notice(text("problem.storage"));
  byId("films-title").focus({ preventScroll: true });
}

// --- beginning ---------------------------------------------------------------------------------

function writeTexts() {
  for (const element of document.querySelectorAll("[data-text]"))
    element.textContent = text(element.dataset.text);
  byId("composer").setAttribute("aria-label", text("drop.label"));
}

function listen() {
  const input = byId("files");
  byId("choose").addEventListener("click", () => input.click());
  byId("drop").addEventListener("click", (event) => {
    if (event.target.closest("button") === null && event.target !== input) input.click();
  });
  input.addEventListener("change", () => {
    takeFiles([...input.files]);
    input.value = "";
  });
  listenForDrops(byId("overlay"), takeFiles);
  byId("settings").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  byId("clear").addEventListener("click", () => {
    for (const card of [...cards.values()]) if (card.clearable) actions.remove(card.film);
    say(text("films.cleared"));
    byId("films-title").focus();
  });
  window.addEventListener("beforeunload", (event) => {
    if ([...uploads.runs.values()].some((run) => run.sending)) event.preventDefault();
  });
  document.addEventListener("visibilitychange", flush);
  store.onChange(async (id) => {
    const film = store.get(id);
    // First, so that the card does not ask for a file that another tab has.
    if (film && isWaitingForFile(film)) await uploads.watch(film);
    refresh(film ?? { id });
    followTasks();
    uploads.slotFreed();
  });
  setInterval(tick, 1000);
}

async function describe() {
  for (let wait = 1000; ; wait = Math.min(wait * 2, 15_000)) {
    try {
      const info = await json("api/v1/info");
      notice("");
      return info;
    } catch {
      notice(text("connection.unreachable"));
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

async function find(films) {
  for (const film of films) {
    if (film.taskId) {
      if (film.status?.status === "completed") await checkTask(film);
      continue;
    }
    await uploads.watch(film);
    if (isWaitingForFile(film)) await askOffset(film);
    refresh(film);
  }
  followTasks();
}

async function main() {
  writeTexts();
  token.listen();
  store.load();
  if (store.broken) notice(text("problem.storage"));
  for (const film of store.all()) refresh(film);
  listen();
  new Panel();
  followTasks();
  const info = await describe();
  uploads.slots = info.limits.tasks_per_ip || 1;
  staging.largest = info.limits.max_upload;
  setText(byId("drop-note"), text("drop.note", { size: size(info.limits.max_upload) }));
  setText(byId("version"), text("footer.version", { version: info.version }));
  settings = new Settings(byId("settings"), info.operations, () => settings.label(staging.files.length));
  settings.label(staging.files.length);
  document.body.classList.add("ready");
  uploads.pump();
  await find(store.all());
}

main();
