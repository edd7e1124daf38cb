// Which tab has a film's file: a lock for each film, held from the choice of its file until it is
// sent or the tab goes, however it goes. So no two tabs send the same upload at once, which would
// take it from each other again and again.

const HELD = `vidproc:${new URL(".", document.baseURI).pathname}:holds:`;
const BEAT = 2000;
const STALE = 7000;
const TAB = String(Math.random()).slice(2);

/** Take a film for this tab; returns a function that lets it go, or null: another tab has it. */
export function take(id) {
  return navigator.locks ? takeLock(id) : takeLease(id);
}

/** Return whether a tab has the film. Asking takes nothing from a tab that takes it just now. */
export async function isHeld(id) {
  if (!navigator.locks) return !isFree(id);
  try {
    const { held } = await navigator.locks.query();
    return held.some((lock) => lock.name === HELD + id && lock.mode === "exclusive");
  } catch {
    return false; // where storage is blocked no tab knows of another
  }
}

/** Call `then` once no other tab has the film. Returns a function that stops waiting. */
export function whenFree(id, then) {
  const stop = new AbortController();
  if (navigator.locks) {
    const options = { mode: "shared", signal: stop.signal };
    navigator.locks.request(HELD + id, options, async () => then()).catch(() => {});
  } else {
    const timer = setInterval(() => {
      if (stop.signal.aborted || isFree(id)) {
        clearInterval(timer);
        if (!stop.signal.aborted) then();
      }
    }, BEAT);
  }
  return () => stop.abort();
}

async function takeLock(id) {
  for (;;) {
    const release = await tryLock(id);
    // A shared lock is only a tab that has waited for the end of another, and is gone in no time.
    if (release !== null || (await isHeld(id))) return release;
  }
}

function tryLock(id) {
  return new Promise((resolve) => {
    navigator.locks
      .request(HELD + id, { ifAvailable: true }, (lock) => {
        if (lock === null) {
          resolve(null);
          return undefined;
        }
        return new Promise((release) => resolve(release));
      })
      .catch(() => resolve(() => {})); // as above
  });
}

// Web Locks need HTTPS or localhost. Elsewhere: a note in localStorage, renewed while the tab lives.

function isFree(id) {
  try {
    const [tab, time] = (localStorage.getItem(HELD + id) ?? "").split(" ");
    return !tab || tab === TAB || Math.abs(Date.now() - Number(time)) > STALE;
  } catch {
    return true;
  }
}

async function takeLease(id) {
  if (!isFree(id)) return null;
  const beat = () => {
    try {
      localStorage.setItem(HELD + id, `${TAB} ${Date.now()}`);
    } catch {
      // without storage no other tab knows the film
    }
  };
  beat();
  const timer = setInterval(beat, BEAT);
  return () => {
    clearInterval(timer);
    try {
      localStorage.removeItem(HELD + id);
    } catch {
      // as above
    }
  };
}
