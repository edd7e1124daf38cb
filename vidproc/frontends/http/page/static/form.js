// The form of an operation, made from what the server says of its parameters: their JSON schemas.

import { make, icon, setText } from "./dom.js";
import { text, textOr } from "./texts.js";
import { FIRST, ONLY_WITH, SUGGESTED } from "./suggestions.js";

const FACTORS = { bytes: 1e6, "bit/s": 1000 };
const SLIDER_STEPS = 100; // values up to which a range gets a slider beside its number
const CLOCK = /^(?:\d+(?:\.\d+)?|(?:\d+:)?[0-5]?\d:[0-5]?\d(?:\.\d+)?)$/;

/** Read a parameter's schema: what kinds of values it takes, and within which bounds. */
function read(schema) {
  const branches = (schema.anyOf ?? [schema]).filter((branch) => branch.type !== "null");
  const optional = "default" in schema;
  const of = (type) => branches.find((branch) => branch.type === type);
  const choices = branches.find((branch) => Array.isArray(branch.enum))?.enum ?? null;
  const whole = of("integer");
  const numeric = whole ?? of("number");
  return {
    optional,
    nullable: (schema.anyOf ?? []).some((branch) => branch.type === "null"),
    initial: schema.default ?? null,
    description: schema.description ?? "",
    unit: schema.unit ?? "",
    choices,
    boolean: of("boolean"),
    list: of("array"),
    several: of("array")?.items?.enum ?? null,
    time: schema.unit === "s" && numeric && of("string"),
    string: of("string"),
    numeric,
    whole: whole !== undefined,
    factor: FACTORS[schema.unit] ?? 1,
  };
}

/** The settings form: operations as radio buttons, and the fields of the chosen one. */
export class Settings {
  constructor(form, operations, onChange) {
    this.form = form;
    this.operations = operations;
    this.onChange = onChange;
    this.values = new Map(); // operation -> parameter -> what was typed
    this.fields = [];
    this.operation = this.remembered();
    this.box = make("div", { class: "fields" });
    this.button = make("button", { class: "primary start", type: "submit" });
    this.note = make("p", { class: "start-note" });
    form.append(this.chooser(), this.box, make("div", { class: "start-row" }, this.note, this.button));
    this.show();
  }

  remembered() {
    let chosen = null;
    try {
      chosen = localStorage.getItem("vidproc:operation");
    } catch {
      // the first one, then
    }
    return Object.hasOwn(this.operations, chosen ?? "") ? chosen : Object.keys(this.operations)[0];
  }

  chooser() {
    const choices = Object.keys(this.operations).map((name) => {
      const input = make("input", {
        type: "radio",
        name: "operation",
        value: name,
        checked: name === this.operation,
        change: () => this.choose(name),
      });
      const says = textOr(`operation.${name}.says`, "");
      return make(
        "label",
        { class: "operation" },
        input,
        icon(name),
        make("span", { class: "operation-name" }, textOr(`operation.${name}`, name)),
        make("span", { class: "operation-says" }, says),
      );
    });
    return make(
      "fieldset",
      { class: "operations" },
      make("legend", {}, text("operation.legend")),
      ...choices,
    );
  }

  choose(name) {
    this.operation = name;
    try {
      localStorage.setItem("vidproc:operation", name);
    } catch {
      // it is the first one again after a reload
    }
    this.show();
    this.onChange();
  }

  show() {
    const schemas = this.operations[this.operation];
    if (!this.values.has(this.operation)) this.values.set(this.operation, {});
    const typed = this.values.get(this.operation);
    const suggested = SUGGESTED[this.operation] ?? {};
    this.fields = Object.entries(schemas).map(([name, schema]) => {
      const field = new Field(this.operation, name, read(schema));
      const first = typed[name] ?? suggested[name];
      if (first !== undefined) field.set(String(first));
      field.onInput = () => {
        typed[name] = field.raw;
        this.showNeeded();
      };
      return field;
    });
    this.showNeeded();
    const front = FIRST[this.operation] ?? [];
    const first = this.fields.filter((field) => !field.kind.optional || front.includes(field.name));
    const rest = this.fields.filter((field) => !first.includes(field));
    this.box.replaceChildren(...first.map((field) => field.element));
    if (rest.length > 0) {
      this.more = make(
        "details",
        { class: "more" },
        make("summary", {}, text("settings.more")),
        make("div", { class: "fields" }, ...rest.map((field) => field.element)),
      );
      this.box.append(this.more);
    }
  }

  /** Hide the fields that do not count now. */
  showNeeded() {
    for (const [name, [other, value]] of Object.entries(ONLY_WITH)) {
      const field = this.fields.find((one) => one.name === name);
      const decides = this.fields.find((one) => one.name === other);
      if (field && decides) field.element.hidden = decides.raw !== value;
    }
  }

  /** Name what the button does with so many films. */
  label(count) {
    const key = count > 0 ? `start.${this.operation}` : null;
    const fallback = text("start.other", { plural: Math.max(1, count), count: Math.max(1, count) });
    let words = fallback;
    try {
      words = text(key ?? `start.${this.operation}`, { plural: Math.max(1, count), count: Math.max(1, count) });
    } catch {
      words = fallback;
    }
    setText(this.button, count > 0 ? words : textOr(`operation.${this.operation}`, words));
    this.button.disabled = count === 0;
    setText(this.note, count > 0 ? "" : text("start.none"));
  }

  /** Return the parameters as they are sent; null if one is not right, which is shown then. */
  parameters() {
    const found = {};
    let wrong = null;
    for (const field of this.fields.filter((one) => !one.element.hidden)) {
      const value = field.value();
      if (value instanceof Wrong) wrong ??= field;
      else if (value !== null) found[field.name] = value;
    }
    if (wrong === null) return found;
    if (this.more?.contains(wrong.element)) this.more.open = true;
    wrong.input.focus();
    return null;
  }
}

class Wrong {}

class Field {
  constructor(operation, name, kind) {
    this.name = name;
    this.kind = kind;
    this.onInput = () => {};
    const id = `field-${name}`;
    this.id = id;
    this.problem = make("p", { class: "problem", id: `${id}-problem`, hidden: true });
    this.hint = make("p", { class: "hint", id: `${id}-hint` }, this.hintText());
    this.input = kind.several ? this.group() : this.control();
    this.input.id = id;
    this.input.setAttribute("aria-describedby", `${id}-hint ${id}-problem`);
    if (!kind.optional) this.input.setAttribute("aria-required", "true");
    const title = textOr(`field.${name}`, name.replaceAll("_", " "));
    const unit = textOr(`unit.${kind.unit}`, kind.unit);
    const body = [this.input];
    if (unit && kind.numeric && !kind.time) body.push(make("span", { class: "unit", "aria-hidden": "true" }, unit));
    const slider = this.slider();
    if (slider) body.unshift(slider);
    const label = kind.several
      ? make("span", { class: "label", id: `${id}-label` }, title)
      : make("label", { for: id }, title);
    if (kind.several) this.input.setAttribute("aria-labelledby", label.id);
    this.element = make(
      "div",
      { class: kind.boolean ? "field check" : slider ? "field wide" : "field" },
      label,
      make("div", { class: "control" }, ...body),
      this.hint,
      this.problem,
    );
    for (const event of ["input", "change"])
      this.input.addEventListener(event, () => {
        this.clear();
        this.onInput();
      });
  }

  hintText() {
    const { kind } = this;
    const parts = [kind.description];
    if (kind.numeric && !kind.time) {
      const { minimum: least, maximum: most } = this.bounds();
      const unit = textOr(`unit.${kind.unit}`, kind.unit);
      if (least !== null && most !== null && most < 1e6)
        parts.push(`${text("settings.range", { least, most, unit }).trim()}.`);
    }
    return parts.join(" ").trim();
  }

  bounds() {
    const { numeric, factor } = this.kind;
    const scaled = (value) => (value === undefined ? null : value / factor);
    return { minimum: scaled(numeric.minimum), maximum: scaled(numeric.maximum) };
  }

  control() {
    const { kind } = this;
    if (kind.choices) {
      const options = kind.choices.map((choice) =>
        make("option", { value: choice, selected: choice === kind.initial }, textOr(`choice.${choice}`, String(choice))),
      );
      if (kind.initial === null && kind.optional)
        options.unshift(make("option", { value: "" }, text("settings.unset")));
      return make("select", {}, ...options);
    }
    if (kind.boolean) return make("input", { type: "checkbox", checked: kind.initial === true });
    const shown = kind.initial === null || Array.isArray(kind.initial) ? "" : kind.initial / (kind.numeric ? kind.factor : 1);
    return make("input", {
      type: "text",
      value: Number.isNaN(shown) ? kind.initial : shown,
      inputmode: kind.numeric && !kind.string ? (kind.whole && kind.factor === 1 ? "numeric" : "decimal") : null,
      placeholder: kind.optional && kind.initial === null ? text("settings.unset") : null,
      autocomplete: "off",
      spellcheck: "false",
    });
  }

  /** Boxes to tick, for a list of some of a few values. */
  group() {
    const { several, initial } = this.kind;
    this.boxes = several.map((choice) =>
      make("input", { type: "checkbox", value: choice, checked: (initial ?? []).includes(choice) }),
    );
    const labels = this.boxes.map((box) =>
      make("label", { class: "tick" }, box, textOr(`choice.${box.value}`, box.value)),
    );
    return make("div", { class: "ticks", role: "group", tabindex: -1 }, ...labels);
  }

  get ticked() {
    return this.boxes.filter((box) => box.checked).map((box) => box.value);
  }

  /** A slider beside the number, where the range is short enough to be felt. */
  slider() {
    const { kind } = this;
    if (!kind.numeric || kind.string || kind.nullable || kind.factor !== 1) return null;
    const { minimum, maximum } = this.bounds();
    if (minimum === null || maximum === null || maximum - minimum > SLIDER_STEPS) return null;
    const slider = make("input", {
      type: "range",
      min: minimum,
      max: maximum,
      step: 1,
      value: kind.initial ?? minimum,
      "aria-hidden": "true",
      tabindex: -1,
    });
    slider.addEventListener("input", () => {
      this.input.value = slider.value;
      this.clear();
      this.onInput();
    });
    this.input.addEventListener("input", () => {
      slider.value = this.input.value;
    });
    this.partner = slider;
    return slider;
  }

  get raw() {
    if (this.boxes) return this.ticked.join();
    return this.input.type === "checkbox" ? this.input.checked : this.input.value;
  }

  set(value) {
    if (this.boxes) for (const box of this.boxes) box.checked = value.split(",").includes(box.value);
    else if (this.input.type === "checkbox") this.input.checked = value === "true";
    else this.input.value = value;
    if (this.partner) this.partner.value = value;
  }

  clear() {
    this.problem.hidden = true;
    this.input.removeAttribute("aria-invalid");
  }

  wrong(words) {
    this.problem.textContent = words;
    this.problem.hidden = false;
    this.input.setAttribute("aria-invalid", "true");
    return new Wrong();
  }

  /** Return the value as the server wants it, null to leave it out, or a `Wrong`, which is shown. */
  value() {
    const { kind } = this;
    this.clear();
    if (this.boxes) return this.ticked.length > 0 ? this.ticked : null;
    if (kind.boolean) return this.input.checked === (kind.initial ?? false) ? null : this.input.checked;
    const typed = this.input.value.trim();
    if (typed === "") return kind.optional ? null : this.wrong(text("settings.missing"));
    if (kind.choices) {
      const choice = kind.choices.find((one) => String(one) === typed);
      return choice === kind.initial ? null : choice;
    }
    if (kind.list) return typed.split(/[\s,]+/).filter((part) => part !== "");
    if (kind.time) {
      if (!CLOCK.test(typed)) return this.wrong(text("settings.time"));
      return /^[\d.]+$/.test(typed) ? Number(typed) : typed;
    }
    if (kind.numeric) {
      const number = this.number(typed);
      if (!(number instanceof Wrong && kind.string)) return number;
    }
    const pattern = kind.string?.pattern;
    if (pattern && !matches(pattern, typed))
      return this.wrong(text("settings.pattern", { description: kind.description }));
    return typed === kind.initial ? null : typed;
  }

  number(typed) {
    const { kind } = this;
    const given = Number(typed.replace(",", "."));
    if (!Number.isFinite(given)) return kind.string ? new Wrong() : this.wrong(text("settings.number"));
    const exact = given * kind.factor;
    const value = kind.factor === 1 ? exact : Math.round(exact);
    if (kind.whole && !Number.isInteger(value)) return this.wrong(text("settings.whole"));
    const { minimum, maximum } = kind.numeric;
    if ((minimum !== undefined && value < minimum) || (maximum !== undefined && value > maximum)) {
      const bounds = this.bounds();
      return this.wrong(text("settings.outside", { least: bounds.minimum, most: bounds.maximum }));
    }
    return value === kind.initial ? null : value;
  }
}

/** Whether a value fits the server's pattern; one that this browser can't read is left to it. */
function matches(pattern, value) {
  try {
    return new RegExp(pattern).test(value);
  } catch {
    return true;
  }
}
