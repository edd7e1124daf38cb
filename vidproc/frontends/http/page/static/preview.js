// What a film's result looks like, as far as this browser can show it.

import { link, request } from "./api.js";
import { Compare, layout } from "./compare.js";
import { make } from "./dom.js";
import { text } from "./texts.js";

const LARGEST_IMAGE = 100e6; // bytes

const KINDS = { gif: "image", mp3: "audio", mp4: "video", webm: "video", mkv: "video" };

export function kindOf(film) {
  return KINDS[film.status?.output?.container] ?? "video";
}

/** A preview below a film, open until `close`. */
export class Preview {
  /** `source` is the film's file, if this tab has it. */
  constructor(film, source) {
    this.film = film;
    this.source = source;
    this.urls = [];
    this.stop = new AbortController();
    this.player = null;
    this.note = make("p", { class: "preview-note" }, text("preview.loading"));
    this.box = make("div", { class: "preview-box" });
    this.element = make("div", { class: "preview" }, this.note, this.box);
    this.open().catch((problem) => {
      if (!this.stop.signal.aborted) this.say(problem.detail ?? text("preview.not"));
    });
  }

  say(words) {
    this.note.textContent = words;
    this.note.hidden = words === "";
  }

  async open() {
    const kind = kindOf(this.film);
    const url = await link(this.film.taskId);
    if (this.stop.signal.aborted) return;
    if (kind === "image") await this.image(url);
    else if (kind === "audio") this.media("audio", url, "");
    else if (layout(this.film) === null)
      this.media("video", url, this.film.type === "aspect_ratio" ? text("preview.differs") : "");
    else if (!this.source) this.media("video", url, text("preview.source.gone"));
    else this.compare(url);
  }

  compare(resultUrl) {
    const sourceUrl = URL.createObjectURL(this.source);
    this.urls.push(sourceUrl);
    this.player = new Compare(this.film, sourceUrl, resultUrl, {
      onSourceFailed: () => {
        this.player.close();
        this.media("video", resultUrl, text("preview.source.not"));
      },
      onResultFailed: () => this.failed(),
    });
    this.say("");
    this.box.replaceChildren(this.player.element);
  }

  media(tag, url, note) {
    const name = this.film.name;
    const player = make(tag, {
      controls: true,
      playsinline: true,
      preload: "metadata",
      "aria-label": text(`preview.${tag}`, { name }),
      error: () => !this.stop.signal.aborted && this.failed(),
    });
    player.src = url;
    this.player = {
      close() {
        player.pause();
        player.removeAttribute("src");
        player.load();
      },
    };
    this.say(note);
    this.box.replaceChildren(player);
  }

  /** A GIF is fetched as a range: only a whole transfer counts as fetched, and this is a look. */
  async image(url) {
    const { bytes } = this.film.status.output;
    if (bytes > LARGEST_IMAGE) {
      this.say(text("preview.large"));
      return;
    }
    const signal = this.stop.signal;
    const response = await request(url, { headers: { Range: "bytes=0-" }, signal });
    const made = URL.createObjectURL(await response.blob());
    this.urls.push(made);
    const image = make("img", {
      alt: text("preview.gif", { name: this.film.name }),
      error: () => !signal.aborted && this.failed(),
    });
    image.src = made;
    this.say("");
    this.box.replaceChildren(image);
  }

  failed() {
    this.player?.close();
    this.player = null;
    this.box.replaceChildren();
    this.say(text("preview.not"));
  }

  close() {
    this.stop.abort();
    this.player?.close();
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.element.remove();
  }
}
