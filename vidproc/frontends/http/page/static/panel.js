// What the server does, for whoever runs it: the last ten minutes in a few small curves.

import { json } from "./api.js";
import { byId, draw, make, setText } from "./dom.js";
import { count, duration, percent, size } from "./format.js";
import { text } from "./texts.js";

const WIDTH = 160;
const HEIGHT = 36;
const SPAN = 600; // seconds

export class Panel {
  constructor() {
    this.button = byId("panel-button");
    this.panel = byId("panel");
    this.timer = null;
    this.note = make("p", { class: "panel-note" });
    this.tiles = {};
    const tiles = ["queued", "running", "cpu", "packets", "uploads", "disk"].map((name) => this.tile(name));
    this.panel.append(
      make(
        "div",
        { class: "panel-head" },
        make("h2", { id: "panel-title" }, text("panel.title")),
        this.note,
      ),
      make("div", { class: "tiles" }, ...tiles),
    );
    this.button.addEventListener("click", () => this.toggle());
    document.addEventListener("visibilitychange", () => this.schedule());
  }

  tile(name) {
    const value = make("span", { class: "tile-value" });
    const aside = make("span", { class: "tile-aside" });
    const curve = draw("svg", {
      class: "spark",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    this.tiles[name] = { value, aside, curve };
    return make(
      "div",
      { class: "tile" },
      make("h3", {}, text(`panel.${name}`)),
      make("p", { class: "tile-line" }, value, " ", aside),
      curve,
    );
  }

  toggle() {
    const open = this.panel.hidden;
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    this.schedule();
  }

  schedule() {
    clearTimeout(this.timer);
    this.timer = null;
    if (!this.panel.hidden && !document.hidden) this.refresh();
  }

  async refresh() {
    let wait = 10;
    try {
      const figures = await json("api/v1/server");
      this.show(figures);
      wait = figures.interval;
    } catch {
      setText(this.note, text("panel.failed"));
    }
    clearTimeout(this.timer);
    if (!this.panel.hidden && !document.hidden)
      this.timer = setTimeout(() => this.refresh(), Math.max(2, wait) * 1000);
  }

  show(figures) {
    const { points } = figures;
    const now = points.at(-1);
    if (!now) {
      setText(this.note, text("panel.empty"));
      return;
    }
    setText(this.note, text("panel.note", { time: duration(figures.uptime) }));
    const times = points.map((point) => Date.parse(point.at) / 1000);
    const curve = (name, values, options) => this.curve(this.tiles[name].curve, times, values, options);
    const peak = (values, shown) => text("panel.peak", { value: shown(Math.max(...values)) });

    const queued = points.map((point) => point.queued);
    this.tell("queued", count(now.queued), peak(queued, count));
    curve("queued", queued, { least: 4 });

    const running = points.map((point) => point.running);
    this.tell(
      "running",
      text("panel.running.of", { running: count(now.running), most: count(now.concurrency) }),
      "",
    );
    curve("running", running, { least: Math.max(...points.map((point) => point.concurrency)) });

    const video = points.map((point) => point.cpu_ffmpeg);
    this.tell(
      "cpu",
      text("figure.percent", { percent: percent(now.cpu_ffmpeg) }),
      text("panel.cpu.reserve", { percent: percent(figures.cpu_reserve) }),
    );
    curve("cpu", video, { least: 1, line: figures.cpu_reserve });

    const packets = points.map((point) => point.packets_in);
    this.tell("packets", text("panel.packets.value", { count: count(now.packets_in) }), peak(packets, count));
    curve("packets", packets, { least: 10 });

    const bytes = points.map((point) => point.bytes_in);
    const rate = (value) => text("figure.rate", { size: size(value) });
    this.tell("uploads", rate(now.bytes_in), peak(bytes, rate));
    curve("uploads", bytes, { least: 1000 });

    const disk = points.map((point) => point.disk_used + point.disk_reserved);
    this.tell("disk", size(disk.at(-1)), text("panel.disk.of", { size: size(figures.disk_limit) }));
    curve("disk", disk, { least: figures.disk_limit });
  }

  tell(name, value, aside) {
    setText(this.tiles[name].value, value);
    setText(this.tiles[name].aside, aside);
  }

  curve(svg, times, values, { least, line }) {
    const top = Math.max(least || 1, ...values) * 1.05;
    const end = times.at(-1);
    const x = (time) => (WIDTH * (1 - (end - time) / SPAN)).toFixed(1);
    const y = (value) => (HEIGHT - 1.5 - (value / top) * (HEIGHT - 3)).toFixed(1);
    const path = values.map((value, index) => `${x(times[index])},${y(value)}`);
    if (path.length === 1) path.unshift(`${(WIDTH - 3).toFixed(1)},${y(values[0])}`);
    const first = path[0].split(",")[0];
    const parts = [
      draw("polygon", { class: "spark-area", points: `${first},${HEIGHT} ${path.join(" ")} ${WIDTH},${HEIGHT}` }),
      draw("polyline", { class: "spark-line", points: path.join(" ") }),
    ];
    if (line !== undefined)
      parts.push(draw("line", { class: "spark-mark", x1: 0, x2: WIDTH, y1: y(line), y2: y(line) }));
    svg.replaceChildren(...parts);
  }
}
