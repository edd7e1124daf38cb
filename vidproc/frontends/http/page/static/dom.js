// Elements made by hand: texts go in as text, never as markup, whatever a file is named.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Functions become listeners, true an empty attribute; false and null leave it out. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an element of SVG. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Set an element's text only if it changes: screen readers and selections stay undisturbed. */
export function setText(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

const ICONS = {
  compress: ["M9 4v5H4", "M15 4v5h5", "M9 20v-5H4", "M15 20v-5h5"],
  resolution: ["M4 9V4h5", "M20 15v5h-5", "M4 4l7 7", "M20 20l-7-7"],
  aspect_ratio: ["M3 6h18v12H3z", "M8 6v12", "M16 6v12"],
  extract_audio: ["M4 10v4", "M8 7v10", "M12 4v16", "M16 8v8", "M20 10v4"],
  gif: ["M3 5h18v14H3z", "M10 10.2a2.2 2.2 0 1 0 0 3.6v-1.6H8.6", "M13.5 9.5v5", "M16.5 14.5v-5h2.6", "M16.5 12h2"],
  webm: ["M3 5h18v14H3z", "M10 9v6l5-3z"],
  other: ["M4 12h16", "M12 4v16"],
  film: ["M4 4h16v16H4z", "M8 4v16", "M16 4v16", "M4 9h4", "M4 15h4", "M16 9h4", "M16 15h4"],
  play: ["M8 5l11 7-11 7z"],
  pause: ["M8 5v14", "M16 5v14"],
  sound: ["M4 10v4h4l5 4V6L8 10z", "M16.5 9a4 4 0 0 1 0 6"],
  silent: ["M4 10v4h4l5 4V6L8 10z", "M17 10l4 4", "M21 10l-4 4"],
  close: ["M6 6l12 12", "M18 6L6 18"],
};

export function icon(name) {
  const paths = ICONS[name] ?? ICONS.other;
  return draw(
    "svg",
    { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" },
    ...paths.map((d) => draw("path", { d })),
  );
}

/** Say something to a screen reader, once, when it has time. */
export function say(words) {
  const live = byId("live");
  live.append(make("p", {}, words));
  while (live.childElementCount > 8) live.firstElementChild.remove();
}
