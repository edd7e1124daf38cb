// The films that are chosen and not yet started.

import { byId, icon, make, say, setText } from "./dom.js";
import { size } from "./format.js";
import { text } from "./texts.js";

export class Staging {
  constructor(onChange) {
    this.files = [];
    this.largest = Infinity;
    this.onChange = onChange;
    this.box = byId("staged");
    this.title = make("h2", { class: "staged-title" });
    this.list = make("ul", { class: "chips" });
    this.problem = make("p", { class: "problem", role: "alert", hidden: true });
    this.box.append(this.title, this.list, this.problem);
  }

  add(files) {
    const before = this.files.length;
    let problem = "";
    for (const file of files) {
      const name = file.name;
      if (file.size === 0) problem = text("staged.empty", { name });
      else if (file.size > this.largest) problem = text("staged.large", { name, size: size(this.largest) });
      else if (this.files.some((other) => same(other, file))) problem = text("staged.twice", { name });
      else this.files.push(file);
    }
    if (files.length === 0) problem = text("problem.folder");
    const added = this.files.length - before;
    if (added > 0) say(text("says.added", { plural: added, count: added }));
    this.show(problem);
  }

  take() {
    const taken = this.files;
    this.files = [];
    this.show("");
    return taken;
  }

  show(problem) {
    const { files } = this;
    this.problem.hidden = problem === "";
    this.problem.textContent = problem;
    this.box.hidden = files.length === 0 && problem === "";
    this.title.hidden = files.length === 0;
    const total = files.reduce((sum, file) => sum + file.size, 0);
    setText(
      this.title,
      text("staged.title", { plural: files.length, count: files.length, size: size(total) }),
    );
    this.list.replaceChildren(
      ...files.map((file, index) =>
        make(
          "li",
          { class: "chip-file" },
          make("span", { class: "chip-name", dir: "auto", title: file.name }, file.name),
          make("span", { class: "chip-size" }, size(file.size)),
          make(
            "button",
            {
              type: "button",
              class: "chip-remove",
              "aria-label": text("staged.remove", { name: file.name }),
              click: () => this.removeAt(index),
            },
            icon("close"),
          ),
        ),
      ),
    );
    this.onChange(files.length);
  }

  removeAt(index) {
    this.files.splice(index, 1);
    this.show("");
    const buttons = this.list.querySelectorAll("button");
    (buttons[Math.min(index, buttons.length - 1)] ?? byId("choose")).focus();
  }
}

export function same(one, other) {
  return (
    one.name === other.name && one.size === other.size && one.lastModified === other.lastModified
  );
}
