// Numbers and times as text. Times are UTC.

const WHOLE = new Intl.NumberFormat("en", {maximumFractionDigits: 0});

/** 20,000 */
export const whole = value => WHOLE.format(value);

/** A price or an amount with up to `digits` decimals: 95,848.5 */
export function decimal(value, digits = 2, least = 0) {
  if (value === null || value === undefined) return "–";
  return new Intl.NumberFormat("en", {maximumFractionDigits: digits, minimumFractionDigits: least}).format(value);
}

/** Decimals that a price needs to be read: two above 100, five significant digits below. */
export function priceDigits(value) {
  const size = Math.abs(value);
  return size >= 100 ? 2 : size >= 1 ? 4 : 6;
}

/** A large amount in a short form: 12.3M */
export const short = value => new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 1}).format(value);

/** A share of 0 to 1 as a percentage that is 100 % only if it is all: 99.99 % */
export function percent(share, digits = 2) {
  if (share === null || share === undefined) return "–";
  const scale = 10 ** digits;
  const value = share >= 1 ? 100 : Math.floor(share * 100 * scale) / scale;
  return `${decimal(value, digits)} %`;
}

/** 2026-01-16 11:59 */
export const minute = iso => (iso ? iso.slice(0, 16).replace("T", " ") : "–");

/** 2026-01-16 11:59:03 */
export const second = iso => (iso ? iso.slice(0, 19).replace("T", " ") : "–");

/** A length of time: 45 s, 3 min, 2 h, 5 d */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.max(0, Math.round(seconds))} s`;
}

/** The UTC day that is `days` after a day: 2026-01-17 */
export const addDays = (day, days) => new Date(Date.parse(`${day}T00:00:00Z`) + days * 86_400_000).toISOString().slice(0, 10);

export const today = () => new Date().toISOString().slice(0, 10);
