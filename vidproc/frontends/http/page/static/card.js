// One film in the list: how it stands, and what can be done with it.

import { icon, make, setText } from "./dom.js";
import { duration, factor, percent, size } from "./format.js";
import { kindOf, Preview } from "./preview.js";
import { layout } from "./compare.js";
import { isOver } from "./store.js";
import { text, textOr } from "./texts.js";

/** What a card shows of a film: a sentence, a bar and figures, an error, and the actions. */
function viewOf(film, run, elsewhere) {
  if (film.taskId) return taskView(film);
  if (film.problem) return refusedView(film, run);
  if (run) return uploadView(film, run);
  if (elsewhere) return { state: "idle", says: text("phase.elsewhere"), actions: [] };
  const sent = film.sent ?? 0;
  const key = film.unreadable ? "phase.unreadable" : sent > 0 ? "phase.lost" : "phase.unsent";
  return {
    state: "lost",
    says: text(key, { sent: size(sent), size: size(film.size) }),
    bar: sent > 0 ? sent / film.size : null,
    actions: ["choose", "remove"],
  };
}

function refusedView(film, run) {
  return {
    state: "failed",
    says: text("phase.refused"),
    problem: film.problem,
    actions: run ? ["retry", "remove"] : ["choose", "remove"],
  };
}

function uploadView(film, run) {
  if (!run.sending) return { state: "idle", says: text("phase.waiting"), actions: ["cancel"] };
  const share = film.size ? Math.min(1, run.loaded / film.size) : 0;
  const view = { state: "busy", bar: share, barKey: "meter.upload", figures: [], actions: ["cancel"] };
  if (run.wait) {
    const seconds = Math.max(0, Math.ceil(((run.wait.until ?? 0) - Date.now()) / 1000));
    view.state = "idle";
    view.says = text(run.wait.key, { seconds });
    if (share === 0) view.bar = null;
    return view;
  }
  view.says = text(share >= 1 ? "phase.accepting" : "phase.uploading");
  view.figures.push(text("figure.of", { done: size(run.loaded), size: size(film.size) }));
  if (run.rate && share < 1) {
    view.figures.push(text("figure.rate", { size: size(run.rate) }));
    if (run.eta !== null) view.figures.push(text("figure.left", { time: duration(run.eta) }));
  }
  view.percent = share;
  return view;
}

function taskView(film) {
  const status = film.status ?? { status: "queued" };
  const warnings = status.warnings ?? [];
  switch (status.status) {
    case "completed":
      return {
        state: "done",
        says: text("phase.completed"),
        result: resultOf(film),
        warnings,
        actions: ["download", "preview", film.downloaded ? "remove" : "delete"],
      };
    case "failed":
      return {
        state: "failed",
        says: text("phase.failed"),
        problem: { detail: status.error ?? "", solution: status.solution ?? "" },
        warnings,
        actions: ["remove"],
      };
    case "expired":
    case "gone":
      return {
        state: "over",
        says: text(`phase.${status.status}`),
        problem: { detail: "", solution: text(`phase.${status.status}.says`) },
        actions: ["remove"],
      };
    case "cancelled":
      return { state: "over", says: text("phase.cancelled"), actions: ["remove"] };
    case "processing":
      return processingView(status, warnings);
    default:
      return {
        state: "idle",
        says:
          status.wait_reason ??
          (status.queue_position
            ? text("phase.position", { position: status.queue_position })
            : text("phase.queued")),
        warnings,
        actions: ["cancel"],
      };
  }
}

function processingView(status, warnings) {
  const figures = [];
  if (status.speed >= 0.05) figures.push(text("figure.speed", { factor: factor(status.speed) }));
  if (status.eta >= 1)
    figures.push(text("figure.left", { time: duration(status.eta) }));
  const stage = status.stage && status.stage !== "processing" ? status.stage : null;
  return {
    state: "busy",
    says: stage ? textOr(`stage.${stage}`, stage) : text("phase.processing"),
    bar: status.progress ?? 0,
    barKey: "meter.processing",
    percent: status.progress ?? 0,
    figures,
    warnings,
    actions: ["cancel"],
  };
}

function resultOf(film) {
  const { output = {}, input = {} } = film.status;
  const before = input.bytes || film.size;
  if (!output.bytes) return null;
  const change = Math.round((output.bytes / before - 1) * 100);
  const key = change < 0 ? "figure.smaller" : change > 0 ? "figure.larger" : "figure.same";
  // An MP3 or a clip is another thing than its source: how much smaller it is says nothing.
  const comparable = ["compress", "resolution", "aspect_ratio"].includes(film.type);
  return {
    size: size(output.bytes),
    change: comparable ? text(key, { percent: Math.abs(change) }) : "",
    better: comparable && change < 0,
    from: text("figure.from", { size: size(before) }),
  };
}

/** What was asked of a film, in one line, such as "Resize · 1280 × 720 · fit crop"; then the size of
 * its frames once it is done, else of its file. */
function summary(film) {
  const { width, height, ...rest } = film.parameters;
  const frame = width && height ? `${width} × ${height}` : null;
  const words = [textOr(`operation.${film.type}`, film.type)];
  if (frame) words.push(frame);
  for (const [name, value] of Object.entries(frame ? rest : film.parameters)) {
    const title = textOr(`field.${name}`, name.replaceAll("_", " ")).toLocaleLowerCase();
    words.push(`${title} ${name.endsWith("_size") ? size(value) : name === "bitrate" ? `${value / 1000}k` : value}`);
  }
  const output = (film.status?.status === "completed" && film.status.output) || {};
  const made = output.width && output.height ? `${output.width} × ${output.height}` : null;
  if (!made) words.push(size(film.size));
  else if (made !== frame) words.push(made);
  return words.join(" · ");
}

export class Card {
  /** `actions` has a function for each action; they are given the film and the card. */
  constructor(film, actions) {
    this.film = film;
    this.handlers = actions;
    this.preview = null;
    this.armed = false;
    this.shown = "";
    this.thumb = make("div", { class: "thumb", "aria-hidden": "true" }, icon("film"));
    this.name = make("h3", { class: "name", dir: "auto" }, film.name);
    this.name.title = film.name;
    this.meta = make("p", { class: "meta" });
    this.bar = make("progress", { class: "bar", max: 1, hidden: true });
    this.says = make("span", { class: "says" });
    this.figures = make("span", { class: "figures" });
    this.percent = make("span", { class: "percent" });
    this.line = make("p", { class: "line" }, this.says, this.figures, this.percent);
    this.result = make("p", { class: "result", hidden: true });
    this.problem = make("div", { class: "card-problem", hidden: true });
    this.warnings = make("details", { class: "warnings", hidden: true });
    this.buttons = make("div", { class: "actions" });
    this.body = make(
      "div",
      { class: "body" },
      this.name,
      this.meta,
      this.bar,
      this.line,
      this.result,
      this.problem,
      this.warnings,
    );
    this.element = make("li", { class: "film" }, this.thumb, this.body, this.buttons);
    this.element.dataset.id = film.id;
  }

  update(run, elsewhere) {
    const { film } = this;
    const view = viewOf(film, run, elsewhere);
    this.element.dataset.state = view.state;
    setText(this.meta, summary(film));
    setText(this.says, view.says);
    setText(this.figures, (view.figures ?? []).join(" · "));
    setText(
      this.percent,
      view.percent === undefined ? "" : text("figure.percent", { percent: percent(view.percent) }),
    );
    this.showBar(view);
    this.showPicture();
    this.showResult(view.result);
    this.showProblem(view.problem);
    this.showWarnings(view.warnings ?? []);
    this.showActions(view.actions);
    if (this.preview && film.status?.status !== "completed") this.closePreview();
  }

  showBar(view) {
    this.bar.hidden = view.bar === undefined || view.bar === null;
    if (this.bar.hidden) return;
    this.bar.value = view.bar;
    this.bar.setAttribute("aria-label", text(view.barKey ?? "meter.upload", { name: this.film.name }));
  }

  showPicture() {
    const { picture } = this.film;
    if (!picture || this.pictured) return;
    if (!picture.startsWith("data:image/jpeg;base64,")) return;
    this.pictured = true;
    const image = make("img", { alt: "" });
    image.src = picture;
    this.thumb.replaceChildren(image);
  }

  showResult(result) {
    this.result.hidden = !result;
    const key = result ? JSON.stringify(result) : "";
    if (!result || this.resultKey === key) return;
    this.resultKey = key;
    this.result.replaceChildren(
      make("strong", { class: "result-size" }, result.size),
      make("span", { class: "result-from" }, result.from),
      ...(result.change
        ? [make("span", { class: result.better ? "chip better" : "chip" }, result.change)]
        : []),
    );
  }

  showProblem(problem) {
    this.problem.hidden = !problem;
    const key = problem ? `${problem.detail}\n${problem.solution}` : "";
    if (this.problemKey === key) return;
    this.problemKey = key;
    this.problem.replaceChildren(
      ...(problem?.detail ? [make("p", { class: "problem-detail" }, problem.detail)] : []),
      ...(problem?.solution ? [make("p", { class: "problem-solution" }, problem.solution)] : []),
    );
  }

  showWarnings(warnings) {
    this.warnings.hidden = warnings.length === 0;
    const key = warnings.join("\n");
    if (this.warningKey === key) return;
    this.warningKey = key;
    const title = text("warnings", { plural: warnings.length, count: warnings.length });
    this.warnings.replaceChildren(
      make("summary", {}, title),
      make("ul", {}, ...warnings.map((words) => make("li", {}, words))),
    );
  }

  /** Make the buttons anew only when there are others: the focus stays where it is. */
  showActions(names) {
    const comparable = layout(this.film) !== null && kindOf(this.film) === "video";
    const key = [...names, this.armed, comparable, this.preview !== null].join();
    if (this.shown === key) return;
    this.shown = key;
    const focused = this.buttons.contains(document.activeElement)
      ? document.activeElement.dataset.action
      : null;
    this.buttons.replaceChildren(
      ...names.map((name) => {
        let label = name;
        if (name === "preview") label = this.preview ? "close" : comparable ? "compare" : "preview";
        if (name === "delete" && !this.armed) label = "remove";
        const spoken = label === "close" ? text("action.close") : text(`action.${label}.of`, { name: this.film.name });
        const look = name === "download" || name === "choose" || name === "retry" ? "primary small" : "quiet small";
        const button = make(
          "button",
          {
            type: "button",
            class: label === "delete" ? "danger small" : look,
            "aria-label": spoken,
            "aria-expanded": name === "preview" ? String(this.preview !== null) : null,
            click: () => this.act(name),
          },
          text(`action.${label}`),
        );
        button.dataset.action = name;
        return button;
      }),
    );
    if (focused) {
      const again = this.buttons.querySelector(`[data-action="${focused}"]`);
      (again ?? this.buttons.querySelector("button"))?.focus();
    }
  }

  act(name) {
    // A result that nobody has fetched goes only at the second click.
    if (name === "delete" && !this.armed) {
      this.armed = true;
      this.handlers.refresh(this.film);
      setTimeout(() => {
        this.armed = false;
        this.handlers.refresh(this.film);
      }, 5000);
      return;
    }
    if (name === "preview") {
      if (this.preview) this.closePreview();
      else this.openPreview();
      this.handlers.refresh(this.film);
      return;
    }
    this.handlers[name === "delete" ? "remove" : name](this.film, this);
  }

  openPreview() {
    this.preview = new Preview(this.film, this.handlers.sourceOf(this.film));
    this.element.append(this.preview.element);
  }

  closePreview() {
    this.preview?.close();
    this.preview = null;
  }

  /** Whether the card may be cleared from the list with the others that are over. */
  get clearable() {
    const { film } = this;
    return isOver(film) && (film.status?.status !== "completed" || film.downloaded === true);
  }

  remove() {
    this.closePreview();
    this.element.remove();
  }
}
