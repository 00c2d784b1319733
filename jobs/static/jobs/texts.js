// The scripts' words: they come with the page, in its language.

const texts = JSON.parse(document.getElementById("texts").textContent);
const language = document.documentElement.lang;

/** Give a text with what belongs into its {0}, {1}. */
export function say(name, ...values) {
  return fill(texts[name], values);
}

/** Give the word of a job's state, such as `completed`. */
export function sayState(name) {
  return texts.states[name];
}

export function sayNumber(number) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: 2 }).format(number);
}

/** Write a duration in its one or two largest units, as the server does. */
export function sayDuration(seconds) {
  const units = texts.units;
  if (seconds < 60) return fill(units.s, [Math.max(0, Math.floor(seconds))]);
  if (seconds < 3600) return fill(units.min, [Math.floor(seconds / 60)]);
  const minutes = Math.floor(seconds / 60);
  if (seconds < 86_400) return fill(units.h, [Math.floor(minutes / 60), minutes % 60]);
  const hours = Math.floor(minutes / 60);
  return fill(units.d, [Math.floor(hours / 24), hours % 24]);
}

export function saySize(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let place = 0;
  for (; bytes >= 1000 && place < units.length - 1; place++) bytes /= 1000;
  const digits = place === 0 || bytes >= 100 ? 0 : 1;
  const amount = new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${amount.format(bytes)} ${units[place]}`;
}

/** Write the time of day of an RFC 3339 time in UTC, with so many digits of a second. */
export function sayTime(timestamp, digits = 3) {
  return timestamp.slice(11, digits ? 20 + digits : 19);
}

function fill(text, values) {
  return text.replace(/\{(\d)\}/g, (_, place) => values[place]);
}
