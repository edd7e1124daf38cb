// Source and result of a film, one over the other, with a divider between; both play in step.

import { make, icon, setText } from "./dom.js";
import { clock } from "./format.js";
import { text } from "./texts.js";

const NEAR = 0.02; // seconds apart that nobody sees
const FAR = 0.25; // seconds apart at which the source jumps instead of hurrying

/** How the source is laid into the result's frame, by operation; null: they can't be compared. */
export function layout(film) {
  const fit = film.parameters.fit ?? "pad";
  const laid = { pad: "contain", crop: "cover", stretch: "fill" }[fit] ?? "contain";
  switch (film.type) {
    case "compress":
    case "webm":
      return "contain";
    case "resolution":
      return laid;
    case "aspect_ratio":
      return fit === "stretch" ? null : laid;
    default:
      return null;
  }
}

/** Seconds of the source at which the result begins. */
export function startOf(film) {
  if (film.type !== "webm") return 0;
  const start = film.parameters.start_time ?? 0;
  if (typeof start === "number") return start;
  return start.split(":").reduce((seconds, part) => seconds * 60 + Number(part), 0) || 0;
}

export class Compare {
  /** `onSourceFailed` and `onResultFailed` are called when the browser can't play one of them. */
  constructor(film, sourceUrl, resultUrl, { onSourceFailed, onResultFailed }) {
    this.offset = startOf(film);
    this.playing = false;
    this.closed = false;
    const quiet = { playsinline: true, preload: "auto", muted: true, disableremoteplayback: true };
    this.after = make("video", { class: "after", "aria-hidden": "true", tabindex: -1, ...quiet });
    this.before = make("video", {
      class: `before ${layout(film)}`,
      "aria-hidden": "true",
      tabindex: -1,
      ...quiet,
    });
    this.after.muted = this.before.muted = true;
    this.split = make("input", {
      class: "split",
      type: "range",
      min: 0,
      max: 100,
      step: 0.5,
      value: 50,
      "aria-label": text("compare.split"),
      input: () => this.divide(),
    });
    this.stage = make(
      "div",
      { class: "stage" },
      this.after,
      this.before,
      make("span", { class: "tag tag-before", "aria-hidden": "true" }, text("compare.before")),
      make("span", { class: "tag tag-after", "aria-hidden": "true" }, text("compare.after")),
      this.split,
      make("div", { class: "divider", "aria-hidden": "true" }, make("span", { class: "grip" })),
    );
    this.playButton = make("button", { class: "round", type: "button", click: () => this.toggle() });
    this.muteButton = make("button", { class: "round", type: "button", click: () => this.mute() });
    this.seek = make("input", {
      class: "seek",
      type: "range",
      min: 0,
      max: 1,
      step: "any",
      value: 0,
      "aria-label": text("compare.seek"),
      input: () => this.jump(Number(this.seek.value)),
    });
    this.time = make("span", { class: "time" });
    this.element = make(
      "figure",
      { class: "compare", "aria-label": text("compare.label", { name: film.name }) },
      this.stage,
      make("div", { class: "controls" }, this.playButton, this.seek, this.time, this.muteButton),
    );
    this.before.addEventListener("error", () => !this.closed && onSourceFailed());
    this.after.addEventListener("error", () => !this.closed && onResultFailed());
    this.after.addEventListener("loadedmetadata", () => this.shape());
    this.after.addEventListener("ended", () => this.restart());
    this.after.addEventListener("timeupdate", () => this.tell());
    for (const video of [this.after, this.before]) {
      video.addEventListener("waiting", () => this.hold());
      video.addEventListener("canplay", () => this.goOn());
    }
    this.divide();
    this.show();
    this.after.src = resultUrl;
    this.before.src = sourceUrl;
    this.before.addEventListener("loadedmetadata", () => this.follow(true));
  }

  shape() {
    const { videoWidth, videoHeight, duration } = this.after;
    if (videoWidth) {
      this.stage.style.setProperty("--ratio", `${videoWidth} / ${videoHeight}`);
      this.stage.style.setProperty("--tallness", String(videoWidth / videoHeight));
    }
    this.seek.max = Number.isFinite(duration) ? duration : 1;
    this.tell();
  }

  divide() {
    this.stage.style.setProperty("--split", `${this.split.value}%`);
    const percent = Math.round(Number(this.split.value));
    this.split.setAttribute("aria-valuetext", text("compare.split.value", { percent }));
  }

  show() {
    this.playButton.replaceChildren(icon(this.playing ? "pause" : "play"));
    this.playButton.setAttribute("aria-label", text(this.playing ? "compare.pause" : "compare.play"));
    this.muteButton.replaceChildren(icon(this.after.muted ? "silent" : "sound"));
    this.muteButton.setAttribute("aria-label", text(this.after.muted ? "compare.unmute" : "compare.mute"));
  }

  tell() {
    const { currentTime, duration } = this.after;
    if (document.activeElement !== this.seek || this.playing) this.seek.value = currentTime;
    setText(this.time, `${clock(currentTime)} / ${clock(duration)}`);
    this.seek.setAttribute("aria-valuetext", clock(currentTime));
  }

  toggle() {
    this.playing = !this.playing;
    if (this.playing) this.goOn();
    else this.hold();
    if (!this.playing) this.follow(true);
    this.show();
  }

  mute() {
    this.after.muted = !this.after.muted;
    this.show();
  }

  jump(time) {
    this.after.currentTime = time;
    this.follow(true);
    this.tell();
  }

  restart() {
    this.jump(0);
    this.goOn();
  }

  /** Stop both: one of them waits for data. */
  hold() {
    this.after.pause();
    this.before.pause();
  }

  /** Let both run if they should and can. */
  goOn() {
    const ready = [this.after, this.before].every((video) => video.readyState >= 3);
    if (!this.playing || !ready || this.closed) return;
    for (const video of [this.after, this.before]) {
      if (video.paused && !video.ended) video.play().catch(() => {});
    }
    this.watch();
  }

  watch() {
    if (this.watching) return;
    this.watching = true;
    const look = () => {
      this.watching = this.playing && !this.closed;
      if (!this.watching) return;
      this.follow(false);
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }

  /** Bring the source to where the result is: gently while they play, exactly otherwise. */
  follow(exactly) {
    if (!this.before.readyState) return;
    const target = this.after.currentTime + this.offset;
    const apart = this.before.currentTime - target;
    if (exactly || Math.abs(apart) > FAR) {
      if (Math.abs(apart) > 0.001 && !this.before.seeking)
        this.before.currentTime = Math.min(target, this.before.duration || target);
      this.before.playbackRate = 1;
      if (exactly && this.before.seeking)
        this.before.addEventListener("seeked", () => this.settle(), { once: true });
    } else {
      const hurry = Math.abs(apart) < NEAR ? 0 : Math.max(-0.15, Math.min(0.15, apart));
      this.before.playbackRate = 1 - hurry;
    }
  }

  /** A seek has ended; the result may have moved on meanwhile. */
  settle() {
    if (this.closed || this.playing) return;
    const target = Math.min(this.after.currentTime + this.offset, this.before.duration || Infinity);
    if (Math.abs(this.before.currentTime - target) > NEAR) this.follow(true);
  }

  close() {
    this.closed = true;
    this.playing = false;
    for (const video of [this.after, this.before]) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
  }
}
