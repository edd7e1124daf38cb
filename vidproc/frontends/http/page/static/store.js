// The films that this browser knows, each in an entry of localStorage of its own, so that tabs don't
// overwrite each other's. What is kept must be enough to find a task, or to go on with an upload.

const PREFIX = `vidproc:${new URL(".", document.baseURI).pathname}:film:`;
const KEPT = 200;

const films = new Map();
const listeners = new Set();
export let broken = false;

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function parse(stored) {
  try {
    const film = JSON.parse(stored);
    const good =
      typeof film.id === "string" &&
      typeof film.name === "string" &&
      typeof film.size === "number" &&
      typeof film.type === "string" &&
      typeof film.parameters === "object" &&
      film.parameters !== null;
    return good ? film : null;
  } catch {
    return null;
  }
}

export function load() {
  try {
    for (let index = 0; index < localStorage.length; index += 1) {
      const key = localStorage.key(index);
      if (!key.startsWith(PREFIX)) continue;
      const film = parse(localStorage.getItem(key));
      if (film !== null) films.set(film.id, film);
    }
  } catch {
    broken = true;
  }
  window.addEventListener("storage", (event) => {
    if (event.key === null || !event.key.startsWith(PREFIX)) return;
    const id = event.key.slice(PREFIX.length);
    const film = event.newValue === null ? null : parse(event.newValue);
    if (film === null) films.delete(id);
    else films.set(id, Object.assign(films.get(id) ?? {}, film));
    tell(id);
  });
}

/** Call `listener` with a film's id when another tab has changed or removed it. */
export function onChange(listener) {
  listeners.add(listener);
}

function tell(id) {
  for (const listener of listeners) listener(id);
}

/** All films, the newest first. */
export function all() {
  return [...films.values()].sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
}

export function get(id) {
  return films.get(id);
}

export function save(film) {
  films.set(film.id, film);
  try {
    localStorage.setItem(PREFIX + film.id, JSON.stringify(film));
  } catch {
    // Full: what ended long ago goes, then once more, without the little picture.
    for (const old of all().filter((other) => isOver(other)).slice(KEPT / 4)) remove(old.id);
    try {
      localStorage.setItem(PREFIX + film.id, JSON.stringify({ ...film, picture: undefined }));
    } catch {
      broken = true;
    }
  }
}

export function remove(id) {
  films.delete(id);
  try {
    localStorage.removeItem(PREFIX + id);
  } catch {
    broken = true;
  }
}

const OVER = ["completed", "failed", "cancelled", "expired", "gone"];

/** Whether nothing more will happen to a film. */
export function isOver(film) {
  return film.problem != null || (film.taskId != null && OVER.includes(film.status?.status));
}

/** Whether a film is a task that waits or runs. */
export function isActive(film) {
  return film.taskId != null && !OVER.includes(film.status?.status);
}
