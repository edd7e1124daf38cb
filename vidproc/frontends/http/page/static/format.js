// Numbers as people read them, in the page's language.

import { LANGUAGE } from "./texts.js";

const UNITS = ["B", "kB", "MB", "GB", "TB"];

function number(value, digits) {
  return value.toLocaleString(LANGUAGE, { maximumFractionDigits: digits });
}

export function count(value) {
  return number(value, 0);
}

/** Bytes, in powers of 1000 as file managers show them. */
export function size(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${number(value, unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${UNITS[unit]}`;
}

/** Seconds, such as 45 s, 3 min 5 s, 2 h 10 min, 3 d 4 h. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([value]) => value > 0)
    .map(([value, unit]) => `${value} ${unit}`)
    .join(" ");
}

/** A position in a video, such as 1:05. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds || 0));
  const rest = String(whole % 60).padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function percent(share) {
  return number(share * 100, 0);
}

export function factor(value) {
  return number(value, value < 10 ? 1 : 0);
}
