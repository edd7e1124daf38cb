// A small picture of a film, made from its file by the browser, one film at a time.

const WIDTH = 160;
const HEIGHT = 90;
const PATIENCE = 6000; // ms

let last = Promise.resolve();

/** Return a data: URL of a frame, or null if this browser can't play the film. */
export function pictureOf(file) {
  const made = last.then(() => make(file)).catch(() => null);
  last = made;
  return made;
}

async function make(file) {
  const url = URL.createObjectURL(file);
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  try {
    video.src = url;
    await event(video, "loadedmetadata");
    if (!video.videoWidth) return null;
    const frame = event(video, "seeked");
    video.currentTime = Math.min(1, (video.duration || 0) / 4);
    await frame;
    const canvas = document.createElement("canvas");
    canvas.width = WIDTH;
    canvas.height = HEIGHT;
    const scale = Math.max(WIDTH / video.videoWidth, HEIGHT / video.videoHeight);
    const width = video.videoWidth * scale;
    const height = video.videoHeight * scale;
    canvas
      .getContext("2d")
      .drawImage(video, (WIDTH - width) / 2, (HEIGHT - height) / 2, width, height);
    return canvas.toDataURL("image/jpeg", 0.7);
  } finally {
    video.removeAttribute("src");
    video.load();
    URL.revokeObjectURL(url);
  }
}

function event(target, name) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${name}`)), PATIENCE);
    const done = (settle) => (value) => {
      clearTimeout(timer);
      settle(value);
    };
    target.addEventListener(name, done(resolve), { once: true });
    target.addEventListener("error", done(reject), { once: true });
  });
}
