// Numbers as text. Knows neither the page nor the network.

export const UNKNOWN = "–";

/** Return a number with about three significant digits. */
export function number(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 10 && !Number.isInteger(value)) return value.toFixed(value < 1 ? 2 : 1);
  return Math.round(value).toLocaleString("en");
}

/** Return a count with its thousands apart. */
export function count(value) {
  return Math.round(value).toLocaleString("en");
}

/** Return a short time such as 45 ms, 1.25 s or 31 s. */
export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`;
}

/** Return a long time such as 12 s, 5 min, 3 h or 2 days. */
export function age(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 120) return `${Math.floor(value)} s`;
  if (value < 7200) return `${Math.floor(value / 60)} min`;
  if (value < 172800) return `${Math.floor(value / 3600)} h`;
  return `${Math.floor(value / 86400)} days`;
}

/** Return bytes as GiB or MiB. */
export function bytes(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const gibibytes = value / 2 ** 30;
  return gibibytes >= 1 ? `${gibibytes.toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
}

/** Return a percentage without digits after the point. */
export function percent(value) {
  return value === null || value === undefined ? UNKNOWN : `${Math.round(value)} %`;
}

/** Return the local time of day of a Unix time. */
export function clock(unixSeconds) {
  return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB");
}
